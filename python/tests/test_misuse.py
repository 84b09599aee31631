# SPDX-License-Identifier: Apache-2.0
"""Wrong arguments in, errors that say what was wrong and what is allowed out."""

import ctypes

import cases
import numpy as np
import pytest
import steady


@pytest.fixture
def case():
    return cases.make_case(1, heads=4, queries=2, batch=3, compressed=(10, 3))


def refused(words, function, *arguments, **options):
    """The error is the library's and a ValueError, and holds all the words."""
    with pytest.raises(steady.InvalidArgument) as caught:
        function(*arguments, **options)
    assert isinstance(caught.value, (steady.Error, ValueError))
    assert caught.value.status == "STEADY_INVALID_ARGUMENT"
    for word in words:
        assert word in str(caught.value)


def layer_refused(case, words, **changed):
    """When the layer is made, or when the library looks at it."""
    engine = case.engine()
    workspace, step = steady.Workspace(engine), case.step(engine)
    engine.plan(workspace, step)
    tensors = {
        "q": case.q,
        "out": case.out,
        "window": case.window.pool,
        "compressed": case.compressed.pool,
        "lse": case.lse,
        "sink": case.sink,
    }
    tensors |= changed
    refused(words, lambda: engine.decode(workspace, step, steady.Layer(engine, **tensors)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": 0}, ["heads is 0", "1 to 128"]),
        ({"heads": 129}, ["heads is 129"]),
        ({"heads": 8, "queries": 9}, ["queries is 9", "1 to 8"]),
        ({"heads": 8, "max_batch": 9000}, ["max_batch is 9000", "1 to 8192"]),
        ({"heads": 8, "window": (0, 4)}, ["window.page_tokens is 0"]),
        ({"heads": 8, "window": (16, 65537)}, ["65537"]),
        ({"heads": 8, "window": (16, 4, "fp4")}, ["'fp4'", "'fp8' and 'bf16'"]),
        ({"heads": 8, "window": (16,)}, ["(page_tokens, max_tokens[, format])"]),
        ({"heads": 8, "compressed": [(4, 4)] * 9}, ["9 entries", "at most 8"]),
        ({"heads": 8, "softmax_scale": float("nan")}, ["softmax_scale", "finite"]),
        ({"heads": 8, "backend": "abacus"}, ["'abacus'", "auto, ", "oracle"]),
        ({"heads": 8, "threads": -1}, ["threads is -1"]),
    ],
    ids=str,
)
def test_a_shape_that_no_backend_takes_is_refused(options, words):
    refused(words, steady.Engine, **options)


def test_element_types_are_checked(case):
    layer_refused(case, ["q is float32 [3, 2, 4, 512]", "bfloat16"], q=np.float32(case.q))
    layer_refused(case, ["out is int16", "bfloat16"], out=case.out.view(np.int16))
    layer_refused(case, ["lse is float64", "float32"], lse=np.float64(case.lse))
    layer_refused(case, ["sink is float64", "float32"], sink=np.float64(case.sink))
    pages, slots = case.window.pool
    layer_refused(case, ["window slots is int64", "int32"], window=(pages, np.int64(slots)))
    layer_refused(case, ["window pages is uint32", "1-byte"], window=(np.uint32(pages), slots))


def test_shapes_are_checked(case):
    layer_refused(case, ["q is uint16 [3, 2, 4, 256]", "[batch, 2, 4, 512]"], q=case.q[..., :256])
    layer_refused(case, ["q is", "[batch, 2, 4, 512]"], q=case.q[:, :1])
    layer_refused(case, ["q is", "[batch, 2, 4, 512]"], q=case.q[0])
    layer_refused(case, ["out is", "[batch, 2, 4, 512]"], out=case.out[:, :, :3])
    layer_refused(case, ["lse is", "[batch, 2, 4]"], lse=case.lse[..., None])
    layer_refused(case, ["sink is float32 [3]", "[4]"], sink=case.sink[:3])
    pages, slots = case.compressed.pool
    layer_refused(case, ["compressed slots is", "10]"], compressed=(pages, slots[..., :9]))
    layer_refused(case, ["a page of 3 tokens", "1752"], compressed=(pages[:, :-1], slots))
    layer_refused(case, ["page of 3 tokens"], compressed=(pages.reshape(5, 4, -1), slots))
    layer_refused(case, ["page of 3 tokens"], compressed=(np.array(pages).reshape(-1), slots))


def test_strides_are_checked(case):
    doubled = np.zeros((3, 2, 4, 1024), np.uint16)
    layer_refused(case, ["q is", "last dimension must be contiguous"], q=doubled[..., ::2])
    halves = np.lib.stride_tricks.as_strided(doubled, case.q.shape, (8192, 4096, 512, 2))
    layer_refused(case, ["out_strides", "overlap", "at least 512"], out=halves)
    layer_refused(case, ["q_strides.batch is -8192"], q=doubled[::-1, ..., :512])
    everywhere = np.broadcast_to(case.q[0, 0, 0], case.q.shape)
    layer_refused(case, ["strides of 0"], q=everywhere)
    pages, slots = case.window.pool
    loose = np.zeros((3, 3, slots.shape[-1]), np.int32)[:, :2]
    layer_refused(case, ["one stride"], window=(pages, loose))
    one_row = np.broadcast_to(slots[:1, :1], slots.shape)
    layer_refused(case, ["row to row"], window=(pages, one_row))
    layer_refused(case, ["contiguous"], sink=np.zeros(8, np.float32)[::2])
    overlapping = np.lib.stride_tricks.as_strided(pages, strides=(8, 1))
    layer_refused(case, ["page_stride_bytes"], window=(overlapping, slots))


def test_misaligned_memory_is_refused(case):
    odd = np.zeros(case.q.nbytes + 1, np.uint8)[1:].view(np.uint16).reshape(case.q.shape)
    assert odd.ctypes.data % 2 == 1
    layer_refused(case, ["steady_layer.q", "aligned to 2"], q=odd)
    engine = case.engine()
    memory = np.zeros(engine.workspace_bytes + 257, np.uint8)
    begin = -memory.ctypes.data % 256 + 1
    misaligned = memory[begin : begin + engine.workspace_bytes]
    workspace = steady.Workspace(engine, misaligned)
    refused(["aligned to 256"], engine.plan, workspace, case.step(engine))


def test_a_workspace_that_is_too_small_is_refused(case):
    engine = case.engine()
    memory = np.zeros(engine.workspace_bytes + 256, np.uint8)
    begin = -memory.ctypes.data % 256
    small = memory[begin : begin + engine.workspace_bytes - 1]
    workspace = steady.Workspace(engine, small)
    refused(["steady_workspace.bytes", "needs"], engine.plan, workspace, case.step(engine))
    refused(["contiguous"], steady.Workspace, engine, memory[::2])


def test_missing_tensors_are_refused(case):
    layer_refused(case, ["q is None"], q=None)
    layer_refused(case, ["out is None"], out=None)
    layer_refused(case, ["window pages are None"], window=None)
    layer_refused(case, ["window slots are None"], window=(case.window.pages, None))
    layer_refused(case, ["tuple (pages, slots)"], window=[1, 2, 3])
    layer_refused(case, ["kind is 1", "kinds 0 to 0"], kind=1)


def test_a_pool_that_the_engine_does_not_have_is_refused(case):
    engine = steady.Engine(4, case.window.shape, queries=2, max_batch=3, backend="cpu")
    words = ["compressed pages are given", "no such pool"]
    refused(
        words, steady.Layer, engine, case.q, case.out, case.window.pool, case.compressed.pool
    )


@pytest.mark.parametrize("what", ["text", 7, [1, 2], object()], ids=str)
def test_what_is_no_tensor_is_refused(case, what):
    layer_refused(case, ["q is ", "a tensor is needed"], q=what)


def test_an_answer_must_be_writable(case):
    case.out.flags.writeable = False
    layer_refused(case, ["out is", "writable"], out=case.out)


def test_inputs_may_be_read_only(case):
    out, _ = case.run()
    for array in (case.q, case.sink, *case.window.pool, *case.compressed.pool):
        array.flags.writeable = False
    np.testing.assert_array_equal(case.run()[0], out)


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        (np.zeros(2, np.int32), ["window_lengths is int32 [2]", "[3 or more]"]),
        (np.zeros(3, np.int64), ["int64", "int32"]),
        (np.zeros((3, 1), np.int32), ["[3 or more, 2]"]),
        (np.zeros(6, np.int32)[::2], ["contiguous"]),
        (np.zeros((), np.int32), ["[3 or more]"]),
    ],
    ids=str,
)
def test_lengths_are_checked(case, lengths, words):
    refused(words, steady.Step, case.engine(), 3, lengths)


def test_a_step_that_the_engine_cannot_take_is_refused(case):
    engine = case.engine()
    workspace = steady.Workspace(engine)
    for batch in (0, -1, 4):
        step = steady.Step(engine, batch)
        refused(["steady_step.batch", "1 to 3"], engine.plan, workspace, step)
    refused(["2 entries", "1 kind"], steady.Step, engine, 3, None, [None, None])


def test_a_layer_with_too_little_room_is_refused(case):
    engine = case.engine()
    workspace, step = steady.Workspace(engine), case.step(engine)
    engine.plan(workspace, step)
    layer = steady.Layer(
        engine, case.q, case.out[:2], case.window.pool, case.compressed.pool
    )
    refused(["batch is 3", "room for 2"], engine.decode, workspace, step, layer)


def test_objects_of_another_engine_are_refused(case):
    engine, other = case.engine(), case.engine()
    workspace, step, layer = steady.Workspace(engine), case.step(engine), case.layer(engine)
    refused(["workspace was made for another"], engine.plan, steady.Workspace(other), step)
    refused(["step was made for another"], engine.plan, workspace, case.step(other))
    engine.plan(workspace, step)
    refused(["layer was made for"], engine.decode, workspace, step, case.layer(other))
    refused(["stream"], engine.capture, steady.Stream(other), lambda: None)


def test_a_decode_without_a_plan_fails_with_the_library_s_status(case):
    engine = case.engine()
    workspace, step = steady.Workspace(engine), case.step(engine)
    with pytest.raises(steady.Error) as caught:
        engine.decode(workspace, step, case.layer(engine))
    assert not isinstance(caught.value, steady.InvalidArgument)
    assert caught.value.status == "STEADY_NOT_PLANNED"


def test_a_stream_must_be_one(case):
    engine = case.engine()
    workspace, step = steady.Workspace(engine), case.step(engine)
    refused(["stream is str", "steady.Stream"], engine.plan, workspace, step, "fast")
    refused(["stream is 4096", "on the CPU"], engine.plan, workspace, step, 4096)
    foreign = steady.Stream(case.engine())
    refused(["stream was made for another"], engine.plan, workspace, step, foreign)
    engine.plan(workspace, step, 0)  # the default stream


def test_a_report_needs_a_checked_engine(case):
    engine = case.engine()
    refused(["not checked"], engine.report, steady.Workspace(engine))


def test_pages_of_tokens_are_checked():
    page = np.zeros(steady.page_bytes(4), np.uint8)
    token = np.zeros(steady.HEAD_DIM, np.float32)
    refused(["token"], steady.pack_token, token, page, 4, 4)
    refused(["[512]"], steady.pack_token, token[:9], page, 4, 0)
    refused(["a page of 4 tokens"], steady.pack_token, token, page[:-1], 4, 0)
    refused(["float32"], steady.unpack_token, page, 4, 0, np.float64(token))


class Elsewhere:
    """An array that says of itself that it lies on a CUDA device, which it does not."""

    class Managed(ctypes.Structure):
        """DLPack's DLManagedTensor."""

        _fields_ = [
            ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32),
            ("device", ctypes.c_int32), ("dimensions", ctypes.c_int32),
            ("type_code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
            ("shape", ctypes.POINTER(ctypes.c_int64)),
            ("strides", ctypes.POINTER(ctypes.c_int64)), ("offset", ctypes.c_uint64),
            ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p),
        ]  # fmt: skip

    CUDA = 2
    TYPE_CODES = {"i": 0, "u": 1, "f": 2}

    def __init__(self, array):
        self.array = array
        self.shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        self.managed = self.Managed(
            array.ctypes.data, self.CUDA, 0, array.ndim, self.TYPE_CODES[array.dtype.kind],
            8 * array.itemsize, 1, self.shape, None, 0, None, None,
        )  # fmt: skip

    def __dlpack_device__(self):
        return self.CUDA, 0

    def __dlpack__(self, **_):
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(self.managed), b"dltensor", None)


def test_no_tensor_of_another_device_gets_in(case):
    words = ["CUDA device 0", "computes on the CPU"]
    q, out = Elsewhere(case.q), Elsewhere(np.zeros_like(case.q))
    layer_refused(case, ["q is uint16", *words], q=q)
    layer_refused(case, ["out is uint16", *words], out=out)
    lengths = Elsewhere(np.zeros(len(case.q), np.int32))
    refused(["lengths is int32", *words], steady.Step, case.engine(), len(case.q), lengths)


def test_a_pools_shape_is_two_ints_and_a_format():
    for shape in (("a", 8), (4.5, 8), (2**40, 8), (4, 8, 3)):
        refused(["a pool's shape is", "two ints of 32 bits"], steady.Engine, 4, shape)


def test_a_stream_as_an_int_is_an_address(case):
    engine = case.engine()
    workspace, step = steady.Workspace(engine), case.step(engine)
    for address in (-1, 2**70):
        refused([f"stream is {address}", "no address"], engine.plan, workspace, step, address)
