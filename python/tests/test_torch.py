# SPDX-License-Identifier: Apache-2.0
"""Tensors of torch in, answers of the operators out: eager, compiled, exported, captured."""

import gc
import weakref

import cases
import numpy as np
import pytest
import steady
import torch_cases
from torch_cases import devices, make_case, needs_gpu, torch

import steady.torch as door
from steady import _operators as operators

SHAPES = {"heads": 8, "queries": 2, "compressed": (20, 3)}


@devices
def test_the_operators_answer_as_the_definition_says(device):
    call = make_case(1, device, **SHAPES)
    engine = call.engine()
    workspace = engine.workspace()
    call.run(engine, workspace)
    call.expect(call.out, call.lse)


def test_the_operators_have_the_bits_of_the_arrays_door():
    call = make_case(2, "cpu", **SHAPES)
    out, lse = call.case.run()
    engine = call.engine()
    workspace = engine.workspace()
    call.run(engine, workspace)
    np.testing.assert_array_equal(torch_cases.to_numpy(call.out), out)
    np.testing.assert_array_equal(torch_cases.to_numpy(call.lse), lse)


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
def test_tensors_without_a_table_for_c_get_the_same_bits(device):
    """As those of an older torch are."""

    class Bare(torch.Tensor):
        __dlpack_c_exchange_api__ = None

    call = make_case(19, device, heads=8, queries=2)
    pool, lengths = (call.window.pages.view(torch.uint8), call.window.slots), call.window.lengths
    engine, out = call.engine(), call.out
    memory, order = engine.workspace()
    answers = []
    for kind in (torch.Tensor, Bare):
        q, scratch = call.q.as_subclass(kind), memory.as_subclass(kind)
        operators.attend(q, out, call.lse, None, *pool, lengths, None, None, None, 0.1)
        answers += [out.clone()]
        operators.plan(engine.name, scratch, order, call.batch, lengths, [])
        operators.decode(engine.name, scratch, order, 0, q, out, None, None, *pool, None, None)
        answers += [out.clone()]
    assert torch.equal(answers[0], answers[2]) and torch.equal(answers[1], answers[3])
    assert not torch.stack(answers).isnan().any()


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
def test_compiled_calls_have_no_graph_break_and_the_same_bits(device):
    call = make_case(6, device, **SHAPES)
    engine = call.engine()
    workspace = engine.workspace()

    def step(q, out, lse):
        call.plan(engine, workspace)
        engine.decode(
            workspace, q * 1, out, window=call.window.pool, compressed=call.compressed.pool,
            lse=lse, sink=call.sink,
        )  # fmt: skip
        return out + 0

    eager = step(call.q, call.out, call.lse)
    compiled = torch.compile(step, fullgraph=True)
    out, lse = torch.zeros_like(call.out), torch.zeros_like(call.lse)
    for lengths in (call.window.lengths.clone(), call.window.lengths.flip(0)):
        call.window.lengths.copy_(lengths)
        eager = step(call.q, call.out, call.lse)
        assert torch.equal(compiled(call.q, out, lse), eager)
        assert torch.equal(out, call.out) and torch.equal(lse, call.lse)


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


def test_an_exported_step_runs_as_the_original():
    call = make_case(8, "cpu", **SHAPES)

    class Attend(torch.nn.Module):
        def forward(self, q, pages, slots, lengths):
            return door.attend(q, (pages, slots), window_lengths=lengths)

    pages = call.window.pages.view(torch.uint8)
    arguments = call.q, pages, call.window.slots, call.window.lengths
    program = torch.export.export(Attend(), arguments)
    assert "steady.attend" in program.graph_module.code
    out, lse = program.module()(*arguments)
    eager, eager_lse = Attend()(*arguments)
    assert torch.equal(out, eager) and torch.equal(lse, eager_lse)


def test_a_trace_a_transform_and_a_mode_see_the_operator():
    """Eager calls go past it, where nothing watches."""
    call = make_case(17, "cpu", **SHAPES)
    pages = call.window.pages.view(torch.uint8)

    def attend(q):
        return door.attend(q, (pages, call.window.slots))[0]

    class Names(torch.utils._python_dispatch.TorchDispatchMode):
        seen = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.seen.append(str(function))
            return function(*args, **(kwargs or {}))

    traced = torch.jit.trace(attend, (call.q,), check_trace=False)
    assert "steady::attend" in str(traced.graph)
    assert torch.equal(traced(call.q.flip(0)), attend(call.q.flip(0)))
    with pytest.raises(RuntimeError, match="steady::attend"):
        torch.func.vmap(attend)(torch.stack([call.q, call.q]))
    with Names() as mode:
        attend(call.q)
    assert "steady.attend.default" in mode.seen


def test_attend_keeps_what_its_schema_promises():
    call = make_case(9, "cpu", **SHAPES)
    call.window.pages = call.window.pages.view(torch.uint8)  # FP8 has no arithmetic to check with
    torch.library.opcheck(
        torch.ops.steady.attend.default,
        (call.q, call.out, call.lse, call.sink, *call.window.pool, call.window.lengths,
         None, None, None, 0.5),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )  # fmt: skip


def test_an_engine_is_made_once_for_each_description():
    call = make_case(10, "cpu")
    assert call.engine().name == call.engine().name
    assert operators.engine_named(call.engine().name) is operators.engine_named(call.engine().name)
    assert call.engine(backend="oracle").name != call.engine().name


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


@devices
def test_a_checked_engine_reports(device):
    call = make_case(11, device)
    call.window.lengths[1] = -3
    engine = call.engine(checked=True)
    workspace = engine.workspace()
    call.plan(engine, workspace)
    assert engine.report(workspace)["negative_length"]["request"] == 1


@devices
def test_wrong_tensors_are_refused_with_the_library_s_words(device):
    call = make_case(12, device)
    engine = call.engine()
    workspace = engine.workspace()
    call.plan(engine, workspace)
    with pytest.raises(steady.InvalidArgument, match="q is float32"):
        engine.decode(workspace, call.q.float(), call.out, window=call.window.pool)
    with pytest.raises(steady.InvalidArgument, match="out is bfloat16"):
        engine.decode(workspace, call.q, call.out[..., :8], window=call.window.pool)
    with pytest.raises(steady.InvalidArgument, match="window pages are None"):
        engine.decode(workspace, call.q, call.out)
    with pytest.raises(steady.InvalidArgument, match="needs"):
        short = door.Workspace(workspace.memory[:-256], workspace.order)
        engine.plan(short, call.batch, call.window.lengths)


@devices
def test_the_arrays_door_takes_tensors_of_torch(device):
    call = make_case(14, device, **SHAPES)
    engine = call.case.engine(backend=device)
    workspace = steady.Workspace(engine)
    step = steady.Step(engine, call.batch, call.window.lengths, [call.compressed.lengths])
    layer = steady.Layer(
        engine, call.q, call.out, call.window.pool, call.compressed.pool,
        lse=call.lse, sink=call.sink,
    )  # fmt: skip
    stream = torch.cuda.current_stream().cuda_stream if device == "cuda" else None
    engine.plan(workspace, step, stream)
    engine.decode(workspace, step, layer, stream)
    call.expect(call.out, call.lse)


@needs_gpu
def test_tensors_of_two_devices_are_refused():
    call = make_case(15, "cuda")
    engine = call.engine()
    workspace = engine.workspace()
    call.plan(engine, workspace)
    with pytest.raises(steady.InvalidArgument, match="computes on CUDA device 0"):
        pool = call.window.pages.cpu(), call.window.slots
        engine.decode(workspace, call.q, call.out, window=pool)
    with pytest.raises(steady.InvalidArgument, match="computes on CUDA device 0"):
        engine.plan(workspace, call.batch, call.window.lengths.cpu())
    host = cases.make_case(15)
    layer = {"window": call.window.pool, "sink": host.sink}
    with pytest.raises(steady.InvalidArgument, match="computes on the CPU"):
        steady.Layer(host.engine(backend="cpu"), host.q, host.out, **layer)
