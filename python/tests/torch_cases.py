# SPDX-License-Identifier: Apache-2.0
"""Calls as NumPy's arrays in, the same as tensors of torch on one device out."""

import cases
import numpy as np
import pytest
import steady

torch = pytest.importorskip("torch", reason="torch is not installed")

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])


def tensor(array, device):
    return None if array is None else torch.from_numpy(np.array(array)).to(device)


def bf16(array, device):
    return tensor(array.view(np.int16), device).view(torch.bfloat16)


def to_numpy(answer):
    return answer.detach().float().cpu().numpy()


class TorchScope:
    """Tensors of one scope; slots and lengths may be rewritten in place."""

    def __init__(self, scope, device):
        self.page_tokens = scope.page_tokens
        page_count = len(scope.pages)
        # As engines have it: [pages, page_tokens, 1, bytes a token], the pages further apart.
        memory = tensor(scope.pages.base if scope.pages.base is not None else scope.pages, device)
        token_bytes = steady.FP8_TOKEN_BYTES
        size = (page_count, scope.page_tokens, 1, token_bytes)
        strides = (memory.stride(0), token_bytes, token_bytes, 1)
        self.pages = torch.as_strided(memory, size, strides).view(torch.float8_e4m3fn)
        self.slots = tensor(scope.slots, device)
        self.lengths = tensor(scope.lengths, device)
        self.shape = scope.shape

    @property
    def pool(self):
        return self.pages, self.slots


class TorchCase:
    """A case on a device."""

    def __init__(self, case, device):
        self.case, self.device = case, torch.device(device)
        self.q = bf16(case.q, device)
        self.sink = tensor(case.sink, device)
        self.window = TorchScope(case.window, device)
        self.compressed = case.compressed and TorchScope(case.compressed, device)
        self.out = torch.full_like(self.q, float("nan"))
        self.lse = torch.full(self.q.shape[:3], float("nan"), device=device)

    @property
    def batch(self):
        return len(self.q)

    def engine(self, **options):
        import steady.torch

        return steady.torch.Engine(
            self.q.shape[2],
            self.window.shape,
            self.compressed and self.compressed.shape,
            queries=self.q.shape[1],
            max_batch=self.batch,
            softmax_scale=self.case.softmax_scale,
            device=self.device,
            **options,
        )

    def plan(self, engine, workspace):
        lengths = [self.compressed.lengths] if self.compressed else []
        engine.plan(workspace, self.batch, self.window.lengths, lengths)

    def decode(self, engine, workspace):
        engine.decode(
            workspace,
            self.q,
            self.out,
            window=self.window.pool,
            compressed=self.compressed and self.compressed.pool,
            lse=self.lse,
            sink=self.sink,
        )

    def run(self, engine, workspace):
        self.plan(engine, workspace)
        self.decode(engine, workspace)

    def expect(self, out, lse, empty=-np.inf):
        """The definition's answer, at the lengths, slots and queries that the tensors hold."""
        case = self.case
        case.q = self.q.cpu().view(torch.int16).numpy().view(np.uint16)
        for scope, source in ((case.window, self.window), (case.compressed, self.compressed)):
            if scope:
                scope.slots = source.slots.cpu().numpy()
                scope.lengths = source.lengths.cpu().numpy()
        exact, exact_lse = case.exact()
        assert cases.relative_error(to_numpy(out), exact) < cases.OUT_LIMIT
        exact_lse[exact_lse == -np.inf] = empty
        np.testing.assert_allclose(to_numpy(lse), exact_lse, rtol=0, atol=cases.LSE_LIMIT)


def make_case(seed, device, **shape):
    return TorchCase(cases.make_case(seed, **shape), device)
