# SPDX-License-Identifier: Apache-2.0
"""Tensors of torch in, answers of attend out, which plans and decodes in one call."""

import gc
import weakref

import pytest
import steady
from torch_cases import devices, make_case, torch

import steady.torch as door
from steady import _operators as operators

SHAPES = {"heads": 8, "queries": 2, "compressed": (20, 3)}


@devices
def test_attend_needs_nothing_but_its_tensors(device):
    call = make_case(3, device, **SHAPES)
    out, lse = door.attend(
        call.q,
        call.window.pool,
        call.compressed.pool,
        window_lengths=call.window.lengths,
        compressed_lengths=call.compressed.lengths,
        sink=call.sink,
    )
    assert out.shape == call.q.shape and out.dtype == torch.bfloat16
    assert lse.shape == call.q.shape[:3] and lse.dtype == torch.float32
    call.expect(out, lse)


@devices
def test_slots_whose_rows_lie_at_no_single_stride_are_taken_too(device):
    call = make_case(4, device, **SHAPES)
    batch, queries, width = call.window.slots.shape
    loose = torch.full((batch, queries + 1, width + 128), -1, dtype=torch.int32, device=device)
    loose[:, :queries, :width] = call.window.slots
    slots = loose[:, :queries, :width]
    lengths = call.window.lengths
    out, _ = door.attend(call.q, (call.window.pages, slots), window_lengths=lengths)
    packed, _ = door.attend(call.q, call.window.pool, window_lengths=lengths)
    assert torch.equal(out, packed)


@devices
def test_answers_go_where_the_caller_wants_them(device):
    call = make_case(5, device, **SHAPES)
    batch, queries, heads, width = call.q.shape
    wide = torch.full((batch, queries, heads + 1, width + 8), 7.0, device=device).bfloat16()
    out, lse = wide[:, :, :heads, :width], call.lse.transpose(1, 2).contiguous().transpose(1, 2)
    answered, _ = door.attend(call.q, call.window.pool, out=out, lse=lse)
    assert answered.data_ptr() == wide.data_ptr()
    plain, plain_lse = door.attend(call.q, call.window.pool)
    assert torch.equal(out, plain) and torch.equal(lse, plain_lse)
    assert (wide[:, :, heads:] == 7).all() and (wide[..., width:] == 7).all()


@devices
def test_the_lse_may_have_its_heads_before_its_queries(device):
    call = make_case(18, device, heads=5, queries=2, batch=3)
    plain = door.attend(call.q, call.window.pool)[1]
    for lse in (None, torch.full((3, 5, 2), float("nan"), device=device)):
        _, by_heads = door.attend(call.q, call.window.pool, lse=lse, heads_first_lse=True)
        assert by_heads.shape == (3, 5, 2) and torch.equal(by_heads, plain.transpose(1, 2))
    with pytest.raises(steady.InvalidArgument, match=r"lse is float32 \[3, 2, 5\]"):
        door.attend(call.q, call.window.pool, lse=plain, heads_first_lse=True)


@devices
def test_queries_and_sinks_that_torch_remembers_as_negatives_count_as_they_are(device):
    call = make_case(21, device, heads=4, queries=2)
    sink = torch.linspace(-1, 1, 4, device=device)
    plain, _ = door.attend(-call.q, call.window.pool, sink=-sink)
    negated = torch._neg_view(call.q), torch._neg_view(sink)
    answer, _ = door.attend(negated[0], call.window.pool, sink=negated[1])
    assert torch.equal(answer, plain)
    assert torch.equal(door.attend(-call.q, call.window.pool, sink=negated[1])[0], plain)


@devices
def test_one_query_a_request_needs_no_dimension(device):
    call = make_case(22, device, heads=4)
    out, lse = door.attend(call.q, call.window.pool)
    for heads_first in (False, True):
        flat = door.attend(call.q[:, 0], call.window.pool, heads_first_lse=heads_first)
        assert torch.equal(flat[0], out[:, 0]) and torch.equal(flat[1], lse[:, 0])


def test_a_batch_beyond_the_largest_is_refused():
    call = make_case(23, "cpu", heads=1, batch=1)
    for batch in (steady.MAX_BATCH + 1, 2**32 + 1):
        q = call.q.expand(batch, *call.q.shape[1:])
        with pytest.raises(steady.InvalidArgument, match="at most 8192 requests"):
            door.attend(q, call.window.pool, out=call.out, lse=call.lse)


@devices
def test_a_refused_attend_writes_nothing_and_the_next_one_answers(device):
    call = make_case(20, device, **SHAPES)
    short = call.window.lengths[:1]
    with pytest.raises(steady.InvalidArgument, match="window_lengths is int32"):
        door.attend(call.q, call.window.pool, window_lengths=short, out=call.out, lse=call.lse)
    with pytest.raises(steady.InvalidArgument, match="window pages is uint8"):
        flat = call.window.pages.view(torch.uint8).flatten(1)
        door.attend(call.q, (flat, call.window.slots), out=call.out, lse=call.lse)
    assert call.out.isnan().all() and call.lse.isnan().all()
    out, _ = door.attend(call.q, call.window.pool, window_lengths=call.window.lengths)
    assert not out.isnan().any()


@devices
def test_attend_compiles_without_a_graph_break(device):
    call = make_case(7, device, **SHAPES)

    def attend(q, pages, slots, lengths):
        out, lse = door.attend(q * 1, (pages, slots), window_lengths=lengths)
        return out * 2, lse

    arguments = call.q, *call.window.pool, call.window.lengths
    out, lse = torch.compile(attend, fullgraph=True)(*arguments)
    eager, eager_lse = attend(*arguments)
    assert torch.equal(out, eager) and torch.equal(lse, eager_lse)


def test_attend_keeps_what_its_schema_promises():
    call = make_case(9, "cpu", **SHAPES)
    call.window.pages = call.window.pages.view(torch.uint8)  # FP8 has no arithmetic to check with
    torch.library.opcheck(
        torch.ops.steady.attend.default,
        (call.q, call.out, call.lse, call.sink, *call.window.pool, call.window.lengths,
         None, None, None, 0.5),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )  # fmt: skip


@devices
def test_attend_keeps_a_bounded_number_of_engines(device, monkeypatch):
    """An engine for each width of a context that grows would be one more pool of threads each."""
    call = make_case(16, device)
    made = []

    def make(*arguments, **options):
        engine = steady.Engine(*arguments, **options)
        made.append(weakref.ref(engine))
        return engine

    monkeypatch.setattr(operators._core, "Engine", make)
    operators.engine_for.cache_clear()
    widths = range(1, operators.KEPT_ENGINES + 9)
    slots = call.window.slots.new_full((call.batch, 1, len(widths)), -1)
    for width in widths:
        door.attend(call.q, (call.window.pages, slots[..., :width]))
    gc.collect()
    assert len(made) == len(widths)
    assert sum(engine() is not None for engine in made) <= operators.KEPT_ENGINES
    operators.engine_for.cache_clear()
    assert not any(engine() for engine in made)
