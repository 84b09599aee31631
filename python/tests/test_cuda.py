# SPDX-License-Identifier: Apache-2.0
"""Calls of torch on GPUs in, what capture, streams, devices and the allocator show of them out."""

import pytest
from torch_cases import make_case, needs_gpu, torch

import steady.torch as door

pytestmark = needs_gpu
SHAPES = {"heads": 64, "batch": 4, "queries": 2, "compressed": (40, 4)}


def allocations():
    """How often torch's allocator was asked, and how often it asked the device."""
    statistics = torch.cuda.memory_stats()
    return statistics["allocation.all.allocated"], statistics["num_device_alloc"]


def captured(call, engine, workspace):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call.run(engine, workspace)
    return graph


def lengths_of_a_step(number, width):
    generator = torch.Generator().manual_seed(number)
    lengths = torch.randint(-2, width + 3, (4,), dtype=torch.int32, generator=generator)
    return lengths * (number != 1)  # once, all rows are padding


def test_a_captured_step_follows_lengths_slots_and_queries_in_place():
    call = make_case(1, "cuda", **SHAPES)
    engine = call.engine()
    workspace = engine.workspace()
    graph = captured(call, engine, workspace)
    for number in range(5):
        call.window.lengths.copy_(lengths_of_a_step(number, 24))
        call.compressed.lengths.copy_(lengths_of_a_step(number + 10, 40))
        call.window.slots.copy_(call.window.slots.roll(1, dims=0))
        call.q.copy_(call.q.flip(0))
        graph.replay()
        call.expect(call.out, call.lse)
        replayed, replayed_lse = call.out.clone(), call.lse.clone()
        call.run(engine, workspace)
        assert torch.equal(call.out, replayed) and torch.equal(call.lse, replayed_lse)


def test_the_first_call_ever_may_be_a_captured_one():
    call = make_case(2, "cuda", heads=13, width=11)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, lse = door.attend(call.q, call.window.pool, sink=call.sink)
    graph.replay()
    eager, eager_lse = door.attend(call.q, call.window.pool, sink=call.sink)
    assert torch.equal(out, eager) and torch.equal(lse, eager_lse)


def test_plan_and_decode_allocate_nothing_eager_or_replayed():
    call = make_case(3, "cuda", **SHAPES)
    engine = call.engine()
    workspace = engine.workspace()
    call.run(engine, workspace)
    before = allocations()
    for _ in range(10):
        call.run(engine, workspace)
    assert allocations() == before
    graph = captured(call, engine, workspace)
    before = allocations()
    for _ in range(10):
        graph.replay()
    assert allocations() == before


def test_a_call_on_a_side_stream_waits_for_that_stream_and_no_other():
    call = make_case(4, "cuda", **SHAPES)
    engine = call.engine()
    workspace = engine.workspace()
    call.run(engine, workspace)
    expected = call.out.clone()
    q, side = call.q.clone(), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        call.q.fill_(float("nan"))
        call.out.fill_(float("nan"))
        torch.cuda._sleep(200_000_000)  # the copy comes late
        call.q.copy_(q)
        call.run(engine, workspace)
        assert not side.query()  # the host did not wait
        answer = call.out + 0
    assert torch.cuda.current_stream().query()  # the default stream has nothing to do with it
    side.synchronize()
    assert torch.equal(answer, expected)


def test_attend_on_a_side_stream_waits_for_that_stream_and_no_other():
    call = make_case(8, "cuda", **SHAPES)
    expected, _ = door.attend(call.q, call.window.pool, call.compressed.pool)
    q, side = call.q.clone(), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        call.q.fill_(float("nan"))
        torch.cuda._sleep(200_000_000)  # the copy comes late
        call.q.copy_(q)
        # The scratch of the first call goes to the second one, which must run after it.
        first, _ = door.attend(call.q, call.window.pool, call.compressed.pool)
        second, _ = door.attend(call.q, call.window.pool, call.compressed.pool)
        assert not side.query()  # the host did not wait
    assert torch.cuda.current_stream().query()  # the default stream has nothing to do with it
    side.synchronize()
    assert torch.equal(first, expected) and torch.equal(second, expected)


def test_a_step_captured_on_a_side_stream_may_be_replayed_on_another():
    call = make_case(5, "cuda", **SHAPES)
    engine = call.engine()
    workspace = engine.workspace()
    side = torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        call.run(engine, workspace)
    graph.replay()
    call.expect(call.out, call.lse)


def test_a_compiled_step_with_graphs_of_its_own_answers_alike():
    """mode='reduce-overhead' captures what torch.compile makes."""
    call = make_case(6, "cuda", **SHAPES)

    @torch.compile(fullgraph=True, mode="reduce-overhead")
    def step(q, pages, slots, lengths):
        out, _ = door.attend(q * 1, (pages, slots), window_lengths=lengths)
        return out + 0

    for _ in range(4):
        call.window.lengths.copy_(call.window.lengths.roll(1))
        arguments = call.q, *call.window.pool, call.window.lengths
        out, _ = door.attend(call.q, call.window.pool, window_lengths=call.window.lengths)
        assert torch.equal(step(*arguments), out)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are not two GPUs here")
def test_two_devices_each_compute_their_own():
    calls = [make_case(7, f"cuda:{number}", **SHAPES) for number in (0, 1)]
    for call in (*calls, *reversed(calls)):  # whichever device is the current one
        engine = call.engine()
        workspace = engine.workspace()
        call.run(engine, workspace)
        call.expect(call.out, call.lse)
    with torch.cuda.device(1):
        out, _ = door.attend(calls[0].q, calls[0].window.pool)
    assert out.device.index == 0
    with pytest.raises(door._core.InvalidArgument, match="CUDA device 1"):
        calls[0].engine().plan(calls[0].engine().workspace(), 4, calls[1].window.lengths)
