# SPDX-License-Identifier: Apache-2.0
"""Tensors of torch in, answers of the operators out: eager, compiled, exported, captured."""

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


def test_an_engine_is_made_once_for_each_description():
    call = make_case(10, "cpu")
    assert call.engine().name == call.engine().name
    assert operators.engine_named(call.engine().name) is operators.engine_named(call.engine().name)
    assert call.engine(backend="oracle").name != call.engine().name


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
