# SPDX-License-Identifier: Apache-2.0
"""FlashMLA's calls in, its recorded answers and the definition's out."""

import cases
import numpy as np
import pytest
import steady
import torch_cases
from torch_cases import TorchCase, devices, make_case, needs_gpu, torch

from steady.flash_mla import flash_mla_with_kvcache, get_mla_metadata

RECORDED_LIMIT = 5e-3  # against answers with an error of their own
FILES = sorted(cases.RECORDED.glob("*.safetensors"))


def call_with(call, metadata=None, **changed):
    """As vLLM calls it."""
    arguments = {
        "q": call.q,
        "k_cache": call.window.pages,
        "block_table": None,
        "head_dim_v": 512,
        "tile_scheduler_metadata": metadata,
        "cache_seqlens": None,
        "is_fp8_kvcache": True,
        "indices": call.window.slots,
        "topk_length": call.window.lengths,
        "softmax_scale": call.case.softmax_scale,
        "attn_sink": call.sink,
    }
    if call.compressed:
        arguments["extra_k_cache"] = call.compressed.pages
        arguments["extra_indices_in_kvcache"] = call.compressed.slots
        arguments["extra_topk_length"] = call.compressed.lengths
    return flash_mla_with_kvcache(**(arguments | changed))


@devices
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_recorded_calls_have_flash_mla_s_own_answers(path, device):
    case, tensors = cases.recorded_case(path)
    out, lse = call_with(TorchCase(case, device), get_mla_metadata()[0])
    recorded = cases.from_bf16(tensors["out_flashmla"])
    assert cases.relative_error(torch_cases.to_numpy(out), recorded) < RECORDED_LIMIT
    lse = torch_cases.to_numpy(lse).swapaxes(1, 2)
    np.testing.assert_allclose(lse, tensors["lse_flashmla"], rtol=0, atol=cases.LSE_LIMIT)


@devices
def test_answers_have_flash_mla_s_shapes_and_types(device):
    call = make_case(1, device, heads=5, queries=3, batch=4)
    call.window.lengths[2] = 0
    out, lse = call_with(call)
    assert out.shape == (4, 3, 5, 512) and out.dtype == torch.bfloat16 and out.is_contiguous()
    assert lse.shape == (4, 5, 3) and lse.dtype == torch.float32
    assert lse.transpose(1, 2).is_contiguous()
    assert out.device.type == lse.device.type == device
    assert (lse[2] == np.inf).all() and not out[2].any()
    call.expect(out, lse.transpose(1, 2), empty=np.inf)


@devices
@pytest.mark.parametrize("heads", [1, 7, 16, 128])
def test_any_number_of_heads_and_any_width_is_taken(heads, device):
    call = make_case(2, device, heads=heads, width=13, page_tokens=7, compressed=(71, 5))
    out, lse = call_with(call)
    call.expect(out, lse.transpose(1, 2), empty=np.inf)


@devices
def test_lengths_may_stand_for_each_query(device):
    call = make_case(3, device, queries=2, batch=2)
    lengths = torch.tensor([[3, 24], [0, 9]], dtype=torch.int32, device=device)
    call.window.lengths = lengths
    out, lse = call_with(call)
    call.expect(out, lse.transpose(1, 2), empty=np.inf)


@devices
def test_loose_strides_are_taken(device):
    """Each dimension of q and of the indices longer in memory than it is here."""
    call = make_case(4, device, queries=3, heads=4)
    tight = call_with(call)
    for name, holder in (("q", call), ("slots", call.window)):
        values = getattr(holder, name)
        *outer, last = values.shape
        loose = values.new_full([extent + 1 for extent in outer] + [last + 128], 77)
        loose = loose[tuple(slice(0, extent) for extent in values.shape)]
        loose.copy_(values)
        setattr(holder, name, loose)
    out, lse = call_with(call)
    assert torch.equal(out, tight[0]) and torch.equal(lse, tight[1])


@devices
def test_out_is_written_where_an_engine_passes_it(device):
    call = make_case(5, device)
    buffer = torch.zeros(call.batch, call.q.shape[2], 512, dtype=torch.bfloat16, device=device)
    out, _ = call_with(call, out=buffer.unsqueeze(1))
    assert out.data_ptr() == buffer.data_ptr()
    assert torch.equal(buffer, call_with(call)[0].squeeze(1))


@devices
def test_metadata_that_are_used_again_with_other_lengths_do_not_go_stale(device):
    call = make_case(6, device, batch=4, compressed=(40, 4))
    metadata, nothing = get_mla_metadata()
    assert nothing is None
    for lengths in ([0, 0, 0, 0], [24, 24, 24, 24], [1, 0, 24, 7], [-1, 5, 100, 2]):
        call.window.lengths.copy_(torch.tensor(lengths, dtype=torch.int32))
        out, lse = call_with(call, metadata)
        call.expect(out, lse.transpose(1, 2), empty=np.inf)
    # Of another shape, too.
    other = make_case(7, device, batch=2, heads=3)
    out, lse = call_with(other, metadata)
    other.expect(out, lse.transpose(1, 2), empty=np.inf)


@needs_gpu
def test_metadata_do_not_go_stale_before_during_and_after_a_capture():
    call = make_case(8, "cuda", batch=4, compressed=(40, 4))
    metadata, _ = get_mla_metadata()
    call.window.lengths.zero_()
    call_with(call, metadata)  # a warm-up with lengths of nobody's
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, lse = call_with(call, metadata)
    for lengths in ([24, 24, 24, 24], [1, 0, 24, 7], [0, 0, 0, 0], [-1, 5, 100, 2]):
        call.window.lengths.copy_(torch.tensor(lengths, dtype=torch.int32))
        graph.replay()
        call.expect(out, lse.transpose(1, 2), empty=np.inf)
        eager, eager_lse = call_with(call, metadata)  # after, and beside, the graph
        assert torch.equal(out, eager) and torch.equal(lse, eager_lse)
    other = make_case(9, "cuda", batch=2)
    call_with(other, metadata)
    graph.replay()
    call.expect(out, lse.transpose(1, 2), empty=np.inf)


@devices
def test_a_compiled_call_has_no_graph_break(device):
    call = make_case(10, device)
    metadata, _ = get_mla_metadata()

    def step(q):
        out, lse = call_with(call, metadata, q=q * 1)
        return out + 0, lse + 0

    out, lse = torch.compile(step, fullgraph=True)(call.q)
    eager, eager_lse = step(call.q)
    assert torch.equal(out, eager) and torch.equal(lse, eager_lse)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"indices": None}, "dense attention"),
        ({"q": torch.zeros(3, 1, 8, 512 + 64).bfloat16()}, "656-byte cache of DeepSeek-V3.2"),
        ({"k_cache": torch.zeros(5, 16, 1, 656, dtype=torch.uint8)}, r"\[5, 16, 1, 656\]"),
        ({"k_cache": torch.zeros(5, 16, 77, dtype=torch.uint8)}, "k_cache 3"),
        ({"is_fp8_kvcache": False}, "is_fp8_kvcache=False"),
        ({"head_dim_v": 128}, "head_dim_v is 128"),
        ({"causal": True}, "causal is True"),
        ({"num_splits": torch.zeros(1)}, "num_splits must be None"),
        ({"extra_k_cache": torch.zeros(1)}, "without extra_indices_in_kvcache"),
        ({"extra_topk_length": torch.zeros(3)}, "without extra_k_cache"),
        ({"attn_sink": torch.zeros(7)}, r"sink is float32 \[7\]"),
        ({"topk_length": torch.zeros(3)}, "window_lengths is float32"),
        ({"indices": torch.zeros(3, 1, 24)}, "window slots is float32"),
    ],
    ids=str,
)
def test_what_is_not_covered_is_refused_in_a_sentence(changed, words):
    call = make_case(11, "cpu")
    with pytest.raises(steady.InvalidArgument, match=words):
        call_with(call, **changed)
