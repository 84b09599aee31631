# SPDX-License-Identifier: Apache-2.0
"""Engines, layers and graphs in, what they keep alive and what a replay sees out."""

import gc
import threading
import weakref

import cases
import numpy as np
import pytest
import steady


def test_an_engine_says_what_it_is():
    engine = steady.Engine(8, (16, 24), queries=2, max_batch=3, backend="oracle")
    assert (engine.heads, engine.queries, engine.max_batch, engine.kinds) == (8, 2, 3, 1)
    assert engine.backend == "oracle" and engine.cuda_device == -1
    assert engine.workspace_bytes > 0


def test_the_library_s_own_memory_and_the_caller_s_serve_alike():
    case = cases.make_case(1)
    out, _ = case.run()
    engine = case.engine()
    memory = cases.poisoned((engine.workspace_bytes + 256,), np.uint8)
    begin = -memory.ctypes.data % 256
    workspace = steady.Workspace(engine, memory[begin : begin + engine.workspace_bytes])
    assert workspace.bytes == engine.workspace_bytes
    step = case.step(engine)
    engine.plan(workspace, step)
    engine.decode(workspace, step, case.layer(engine))
    np.testing.assert_array_equal(cases.from_bf16(case.out), out)


def test_whatever_is_in_use_stays_alive():
    """Nothing but the graph is left: no engine, no step, no layer, no array."""
    case = cases.make_case(2, compressed=(10, 3))
    expected, _ = case.run()
    engine = case.engine()
    stream, workspace = steady.Stream(engine), steady.Workspace(engine)
    step, layer = case.step(engine), case.layer(engine)

    def record():
        engine.plan(workspace, step, stream)
        engine.decode(workspace, step, layer, stream)

    graph = engine.capture(stream, record)
    alive = weakref.ref(case.window.pages.base)
    out = case.out
    out[:] = 0
    del case, engine, stream, workspace, step, layer, record
    gc.collect()
    filler = [np.full(1 << 16, 0xFF, np.uint8) for _ in range(64)]  # takes what was freed
    graph.replay()
    np.testing.assert_array_equal(cases.from_bf16(out), expected)
    assert alive() is not None and len(filler) == 64
    del graph, out
    gc.collect()
    assert alive() is None


def test_a_view_keeps_its_array_alive_in_a_layer():
    case = cases.make_case(3)
    expected, _ = case.run()
    engine = case.engine()
    workspace, step = steady.Workspace(engine), case.step(engine)
    whole = np.concatenate([case.q, case.q])
    layer = steady.Layer(engine, whole[3:], case.out, case.window.pool, sink=case.sink)
    del whole
    gc.collect()
    filler = [np.full(case.q.shape, 0xFFFF, np.uint16) for _ in range(64)]
    engine.plan(workspace, step)
    engine.decode(workspace, step, layer)
    np.testing.assert_array_equal(cases.from_bf16(case.out), expected)
    assert len(filler) == 64


def test_a_replay_sees_what_the_arrays_hold_by_then():
    case = cases.make_case(4, batch=3)
    other = cases.make_case(5, batch=3)
    other.window.pages = case.window.pages
    engine = case.engine()
    stream, workspace = steady.Stream(engine), steady.Workspace(engine)
    step, layer = case.step(engine), case.layer(engine)

    def record():
        engine.plan(workspace, step, stream)
        engine.decode(workspace, step, layer, stream)

    case.out[:] = 0x7FFF
    graph = engine.capture(stream, record)
    assert np.all(case.out == 0x7FFF)  # recorded, not run
    for lengths in ([24, 0, 7], [1, -1, 24], [0, 0, 0]):
        case.window.lengths[:] = lengths
        case.q[:] = case.q[::-1].copy()
        graph.replay(stream)
        stream.wait()
        replayed, replayed_lse = case.out.copy(), case.lse.copy()
        engine.plan(workspace, step)
        engine.decode(workspace, step, layer)
        np.testing.assert_array_equal(case.out, replayed)
        np.testing.assert_array_equal(case.lse, replayed_lse)


def test_a_capture_ends_when_its_function_raises():
    case = cases.make_case(6)
    engine = case.engine()
    stream = steady.Stream(engine)
    with pytest.raises(KeyError):
        engine.capture(stream, lambda: {}["nothing"])
    graph = engine.capture(stream, lambda: None)  # the stream can capture again
    graph.replay()


def test_other_threads_run_while_one_decodes():
    """An engine may be shared; a workspace is each thread's own."""
    case = cases.make_case(7, heads=64, batch=3, compressed=(64, 16))
    expected, _ = case.run()
    engine = case.engine()
    step = case.step(engine)
    answers = [np.empty_like(case.out) for _ in range(4)]

    def work(out):
        workspace = steady.Workspace(engine)
        layer = steady.Layer(
            engine, case.q, out, case.window.pool, case.compressed.pool, sink=case.sink
        )
        for _ in range(20):
            engine.plan(workspace, step)
            engine.decode(workspace, step, layer)

    threads = [threading.Thread(target=work, args=(out,)) for out in answers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for out in answers:
        np.testing.assert_array_equal(cases.from_bf16(out), expected)


def test_a_type_is_asked_for_dlpack_s_table_once():
    """NumPy's types have none, and each question would raise an AttributeError."""
    asked = []

    class CountingType(type):
        def __getattr__(cls, name):
            asked.append(name)
            raise AttributeError(name)

    class Array(np.ndarray, metaclass=CountingType):
        pass

    token = np.zeros(steady.HEAD_DIM, np.float32)
    page = np.zeros(steady.page_bytes(2), np.uint8)
    for place in (0, 1, 0):
        steady.pack_token(token.view(Array), page.view(Array), 2, place)
    assert asked.count("__dlpack_c_exchange_api__") == 1


def test_types_of_tensors_may_come_and_go():
    """More of them than are remembered, each gone before the next."""
    page = np.zeros(steady.page_bytes(1), np.uint8)
    kept = []
    for number in range(20):
        array_type = type(f"Array{number}", (np.ndarray,), {})
        kept.append(weakref.ref(array_type))
        values = np.full(steady.HEAD_DIM, number, np.float32).view(array_type)
        steady.pack_token(values, page, 1, 0)
        steady.unpack_token(page, 1, 0, values)
        assert values[-1] == number
        del values, array_type
    gc.collect()
    assert sum(one() is not None for one in kept) <= 4
