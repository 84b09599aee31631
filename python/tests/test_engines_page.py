# SPDX-License-Identifier: Apache-2.0
"""The code that docs/engines.md shows, run as it stands there."""

import pytest
import steady


torch = pytest.importorskip("torch", reason="torch is not installed")


class DecodeStep:
    """One batch size of an engine: buffers that never move, and a captured step over them."""

    def __init__(self, attention, layers, caches, sinks, device, batch):
        self.attention, self.layers, self.caches, self.sinks = attention, layers, caches, sinks
        self.batch = batch
        self.workspace = attention.workspace()

        def int32(*shape):
            return torch.zeros(shape, dtype=torch.int32, device=device)

        # Written before each step. Zero is a padded row: no slot of it is looked at.
        self.window_lengths = int32(batch)
        self.c4_lengths, self.c128_lengths = int32(batch), int32(batch)
        self.window_slots = int32(batch, 128)
        self.c4_slots = [int32(batch, 512) for kind in layers if kind == 1]
        self.c128_slots = int32(batch, 1024)
        self.q = torch.zeros(len(layers), batch, 64, 512, dtype=torch.bfloat16, device=device)
        self.out = torch.zeros_like(self.q)

    def compressed(self, number):
        """The pool that this layer selects from, or None."""
        kind = self.layers[number]
        if kind == 0:
            return None
        slots = self.c128_slots if kind == 2 else self.c4_slots[self.layers[:number].count(1)]
        return steady.Pool(self.caches[number]["compressed"], slots)

    def run(self):
        lengths = [None, self.c4_lengths, self.c128_lengths]  # by kind
        self.attention.plan(self.workspace, self.batch, self.window_lengths, lengths)
        for number, kind in enumerate(self.layers):
            self.attention.decode(
                self.workspace,
                self.q[number],
                self.out[number],
                window=steady.Pool(self.caches[number]["window"], self.window_slots),
                compressed=self.compressed(number),
                kind=kind,
                sink=self.sinks[number],
            )

    def capture(self):
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.run()


def window_slots(block_table, seq_lens, page_tokens, width=128):
    """The last `width` positions of each request as slots, and how many there are."""
    lengths = seq_lens.clamp(0, width)
    places = torch.arange(width, device=seq_lens.device, dtype=torch.int32)
    positions = (seq_lens - lengths)[:, None] + places
    pages = torch.clamp(positions // page_tokens, max=block_table.shape[1] - 1)
    slots = block_table.gather(1, pages.long()) * page_tokens + positions % page_tokens
    return slots.int(), lengths.int()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_whole_step_of_an_engine(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU is here")
    import steady.torch

    layers = [0, 1, 2, 1]  # V4-Flash begins 0, 0, 1, 2, 1, 2, …
    attention = steady.torch.Engine(
        heads=64,
        window=steady.PoolShape(page_tokens=64, max_tokens=128),
        compressed=[None, steady.PoolShape(64, 512), steady.PoolShape(2, 1024)],
        max_batch=4,
        device=device,
    )

    def cache(page_count, page_tokens):
        shape = (page_count, page_tokens, 1, steady.FP8_TOKEN_BYTES)
        return torch.randint(0, 100, shape, dtype=torch.uint8, device=device)

    caches = [
        {"window": cache(16, 64), "compressed": cache(40, {1: 64, 2: 2}.get(kind, 1))}
        for kind in layers
    ]
    sinks = [torch.randn(64, device=device) for _ in layers]
    step = DecodeStep(attention, layers, caches, sinks, torch.device(device), batch=4)
    block_table = torch.randperm(16, device=device).int().view(4, 4)
    if device == "cuda":
        step.run()  # loads the kernels
        step.capture()

    for seq_lens in ([1, 200, 77, 0], [2, 201, 78, 0], [130, 256, 3, 9]):
        seq_lens = torch.tensor(seq_lens, dtype=torch.int32, device=device)
        slots, lengths = window_slots(block_table, seq_lens, page_tokens=64)
        step.window_slots.copy_(slots)
        step.window_lengths.copy_(lengths)
        step.c4_lengths.copy_(seq_lens // 4)
        step.c128_lengths.copy_(seq_lens // 128)
        for c4_slots in step.c4_slots:
            c4_slots.copy_(torch.randint_like(c4_slots, 0, 40 * 64))
        step.c128_slots.copy_(torch.randint_like(step.c128_slots, 0, 80))
        step.q.copy_(torch.randn(step.q.shape))
        step.graph.replay() if device == "cuda" else step.run()

        for number, kind in enumerate(layers):
            lengths = [None, step.c4_lengths, step.c128_lengths][kind]
            expected, _ = steady.torch.attend(
                step.q[number],
                (caches[number]["window"], step.window_slots),
                step.compressed(number),
                window_lengths=step.window_lengths,
                compressed_lengths=lengths,
                sink=sinks[number],
            )
            torch.testing.assert_close(step.out[number], expected, rtol=2**-6, atol=2**-8)
            assert not step.out[number][seq_lens == 0].any()
