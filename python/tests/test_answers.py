# SPDX-License-Identifier: Apache-2.0
"""Calls with NumPy's arrays in, answers beside recorded ones, the definition's and the oracle's."""

import cases
import numpy as np
import pytest
import steady

FILES = sorted(cases.RECORDED.glob("*.safetensors"))


def test_there_are_recorded_calls():
    assert len(FILES) >= 7


@pytest.mark.parametrize("backend", ["cpu", "oracle"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_recorded_calls_have_their_exact_answers(path, backend):
    case, tensors = cases.recorded_case(path)
    out, lse = case.run(backend=backend)
    assert cases.relative_error(out, tensors["out_exact"]) < cases.OUT_LIMIT
    np.testing.assert_allclose(lse, tensors["lse_exact"], rtol=0, atol=cases.LSE_LIMIT)


@pytest.mark.parametrize("backend", ["cpu", "oracle"])
@pytest.mark.parametrize(
    "shape",
    [
        {"heads": 1, "batch": 1, "width": 1, "page_tokens": 1},
        {"heads": 3, "width": 7, "page_tokens": 5},
        {"heads": 128, "batch": 2, "width": 33},
        {"queries": 3, "compressed": (40, 2)},
        {"width": 0, "compressed": (65, 61)},
        {"queries": 8, "batch": 1, "compressed": (3, 16), "sink": False},
    ],
    ids=str,
)
def test_answers_follow_the_definition_whatever_lies_where_nobody_may_look(shape, backend):
    case = cases.make_case(7, **shape)
    out, lse = case.run(backend=backend)
    exact, exact_lse = case.exact()
    assert cases.relative_error(out, exact) < cases.OUT_LIMIT
    np.testing.assert_allclose(lse, exact_lse, rtol=0, atol=cases.LSE_LIMIT)


def test_a_row_without_tokens_has_zeros_and_minus_infinity():
    case = cases.make_case(1, batch=3)
    case.window.lengths[:] = [0, -5, 24]
    case.window.slots[2] = -1
    out, lse = case.run()
    assert not out.any()
    assert np.all(lse == -np.inf)


def test_a_row_without_tokens_has_plus_infinity_where_the_layer_asks_for_it():
    case = cases.make_case(1, batch=3)
    case.window.lengths[:] = [0, 24, -5]
    engine = case.engine()
    workspace, step = steady.Workspace(engine), case.step(engine)
    layer = steady.Layer(
        engine, case.q, case.out, window=case.window.pool, lse=case.lse, sink=case.sink,
        empty_lse_is_positive=True,
    )  # fmt: skip
    engine.plan(workspace, step)
    engine.decode(workspace, step, layer)
    assert np.all(case.lse[[0, 2]] == np.inf)
    assert np.all(np.isfinite(case.lse[1]))


def test_infinite_sinks_count_for_nothing_or_for_everything():
    case = cases.make_case(2, heads=4)
    case.window.lengths[:] = 24
    case.sink[:] = [-np.inf, np.inf, 0, -np.inf]
    out, lse = case.run()
    case.sink = None
    bare, bare_lse = case.run()
    np.testing.assert_array_equal(out[:, :, [0, 3]], bare[:, :, [0, 3]])
    assert not out[:, :, 1].any()
    np.testing.assert_array_equal(lse, bare_lse)


def test_lengths_may_stand_for_each_query():
    case = cases.make_case(3, queries=2, batch=2)
    case.window.lengths = np.array([[3, 24], [0, 9]], np.int32)
    out, lse = case.run()
    flat = cases.make_case(3, queries=2, batch=2)
    flat.q = case.q.reshape(4, 1, *case.q.shape[2:])
    flat.window.slots = case.window.slots.reshape(4, 1, -1)
    flat.window.lengths = case.window.lengths.reshape(4)
    flat.out = cases.poisoned(flat.q.shape, np.uint16)
    flat.lse = cases.poisoned(flat.q.shape[:3], np.float32)
    flat_out, flat_lse = flat.run()
    np.testing.assert_array_equal(out, flat_out.reshape(out.shape))
    np.testing.assert_array_equal(lse, flat_lse.reshape(lse.shape))


def test_a_pool_of_bf16_may_be_given_as_its_elements_or_its_bytes():
    rng = np.random.default_rng(4)
    scope = cases.make_scope(rng, 2, 1, 12, 4, format="bf16", gap=32)
    q = cases.to_bf16(rng.standard_normal((2, 1, 4, steady.HEAD_DIM)))
    case = cases.Case(q, scope)
    out, lse = case.run()
    exact, _ = case.exact()
    assert cases.relative_error(out, exact) < cases.OUT_LIMIT
    scope.pages = np.ascontiguousarray(scope.pages).view(np.uint16)
    np.testing.assert_array_equal(case.run()[0], out)


def test_strided_queries_answers_and_slots_are_read_and_written_in_place():
    case = cases.make_case(5, heads=4, queries=2, compressed=(10, 3))
    out, lse = case.run()
    batch, queries, heads, width = case.q.shape

    wide_q = cases.poisoned((batch + 1, heads + 2, queries + 1, width + 8), np.uint16)
    q = wide_q[:batch, :heads, :queries, :width].swapaxes(1, 2)
    q[:] = case.q
    wide_out = cases.poisoned((batch, queries + 1, heads + 1, width + 2), np.uint16)
    wide_lse = cases.poisoned((batch + 1, heads, queries), np.float32)
    slots = cases.poisoned((batch, queries, case.window.slots.shape[-1] + 5), np.int32)
    slots[..., :-5] = case.window.slots
    case.q, case.window.slots = q, slots[..., :-5]
    case.out = wide_out[:, :queries, :heads, :width]
    case.lse = wide_lse[:batch].swapaxes(1, 2)
    case.run()
    np.testing.assert_array_equal(cases.from_bf16(case.out), out)
    np.testing.assert_array_equal(case.lse, lse)
    # What lies between the answers is still what it was.
    assert np.all(wide_out[:, queries:] == 0xFFFF)
    assert np.all(wide_out[:, :, heads:] == 0xFFFF)
    assert np.all(wide_out[..., width:] == 0xFFFF)
    assert np.isnan(wide_lse[batch:]).all()


def test_the_dimension_of_a_single_query_may_be_left_out():
    case = cases.make_case(6)
    out, lse = case.run()
    engine = case.engine()
    workspace, step = steady.Workspace(engine), case.step(engine)
    flat_out, flat_lse = np.empty_like(case.out[:, 0]), np.empty_like(case.lse[:, 0])
    pool = steady.Pool(case.window.pages, case.window.slots[:, 0])
    layer = steady.Layer(engine, case.q[:, 0], flat_out, pool, lse=flat_lse, sink=case.sink)
    engine.plan(workspace, step)
    engine.decode(workspace, step, layer)
    np.testing.assert_array_equal(cases.from_bf16(flat_out), out[:, 0])
    np.testing.assert_array_equal(flat_lse, lse[:, 0])


def test_a_layer_may_have_room_for_more_requests_than_a_step_has():
    case = cases.make_case(8, batch=4)
    out, _ = case.run()
    case.out[:] = 0x7FFF
    engine = case.engine()
    workspace = steady.Workspace(engine)
    layer = case.layer(engine)
    step = steady.Step(engine, 2, case.window.lengths)
    engine.plan(workspace, step)
    engine.decode(workspace, step, layer)
    assert layer.batch == 4
    np.testing.assert_array_equal(cases.from_bf16(case.out[:2]), out[:2])
    assert np.all(case.out[2:] == 0x7FFF)


def test_kinds_share_a_plan_and_a_workspace():
    first = cases.make_case(9, compressed=(12, 4))
    second = cases.make_case(9)
    alone = [first.run(), second.run()]
    engine = steady.Engine(
        8, first.window.shape, [None, first.compressed.shape], max_batch=3, backend="cpu"
    )
    assert engine.kinds == 2
    workspace = steady.Workspace(engine)
    step = steady.Step(engine, 3, first.window.lengths, [None, first.compressed.lengths])
    layers = [
        steady.Layer(engine, second.q, second.out, second.window.pool, sink=second.sink),
        steady.Layer(
            engine, first.q, first.out, first.window.pool, first.compressed.pool,
            kind=1, sink=first.sink,
        ),
    ]  # fmt: skip
    first.out[:], second.out[:] = 0x7FFF, 0x7FFF
    engine.plan(workspace, step)
    for layer in layers:
        engine.decode(workspace, step, layer)
    np.testing.assert_array_equal(cases.from_bf16(first.out), alone[0][0])
    np.testing.assert_array_equal(cases.from_bf16(second.out), alone[1][0])


def test_a_checked_engine_reports_what_it_met():
    case = cases.make_case(10, batch=3)
    case.window.lengths[:] = [24, -7, 1000]
    case.window.slots[:] = 0
    case.window.slots[2, 0, 5] = -2
    engine = case.engine(checked=True)
    workspace, step = steady.Workspace(engine), case.step(engine)
    engine.plan(workspace, step)
    engine.decode(workspace, step, case.layer(engine))
    report = engine.report(workspace)
    assert report["negative_length"]["count"] == 1 and report["negative_length"]["value"] == -7
    assert report["long_length"]["request"] == 2
    assert report["stray_slot"] == {
        "count": 1, "layer": 0, "kind": 0, "scope": 0,
        "request": 2, "query": 0, "position": 5, "value": -2,
    }  # fmt: skip


def test_the_five_lines_of_the_readme():
    case = cases.make_case(11, heads=64, batch=8, width=128, page_tokens=64, sink=False)
    expected, _ = case.run()
    q, out, lengths = case.q, cases.poisoned(case.q.shape, np.uint16), case.window.lengths
    pages, slots = case.window.pool

    engine = steady.Engine(heads=64, window=steady.PoolShape(64, 128), max_batch=8, backend="cpu")
    workspace, step = steady.Workspace(engine), steady.Step(engine, 8, lengths)
    layer = steady.Layer(engine, q, out, window=steady.Pool(pages, slots))
    engine.plan(workspace, step)
    engine.decode(workspace, step, layer)

    np.testing.assert_array_equal(cases.from_bf16(out), expected)
