# SPDX-License-Identifier: Apache-2.0
"""Tensors of torch in, the library's calls on torch's current stream out: what stands behind the
operators torch.ops.steady.plan, decode and attend."""

import functools
import json

import torch
from torch import Tensor
from torch._C import _is_tracing, _len_torch_dispatch_stack, _len_torch_function_stack
from torch._C._functorch import peek_interpreter_stack

from . import _core

ALIGNMENT = 256  # of a workspace, in bytes
KEPT_ENGINES = 16  # of attend: a model has three shapes at a time, and one more for each width

library = torch.library.Library("steady", "DEF")
library.define(
    "plan(str engine, Tensor memory, Tensor(a!) order, int batch, Tensor? window_lengths,"
    " Tensor?[] compressed_lengths) -> ()"
)
library.define(
    "decode(str engine, Tensor memory, Tensor(a!) order, int kind, Tensor q, Tensor(b!) out,"
    " Tensor(c!)? lse, Tensor? sink, Tensor? window_pages, Tensor? window_slots,"
    " Tensor? compressed_pages, Tensor? compressed_slots, bool empty_lse_is_positive=False) -> ()"
)
library.define(
    "attend(Tensor q, Tensor(a!) out, Tensor(b!)? lse, Tensor? sink, Tensor? window_pages,"
    " Tensor? window_slots, Tensor? window_lengths, Tensor? compressed_pages,"
    " Tensor? compressed_slots, Tensor? compressed_lengths, float softmax_scale,"
    " bool empty_lse_is_positive=False) -> ()"
)


def is_watched(tensor):
    """Whether a compiler, a trace, a transform, a mode or a class of tensors wants to see operators.
    Where none does, the dispatcher costs the host more than it is worth."""
    return (
        torch.compiler.is_compiling()
        or type(tensor) is not Tensor
        or _len_torch_dispatch_stack() > 0
        or _len_torch_function_stack() > 0
        or _is_tracing()
        or peek_interpreter_stack() is not None
    )


def index_of(device):
    if device.type == "cuda" and device.index is None:
        return torch.cuda.current_device()
    return device.index or 0


@functools.cache
def engine_named(name):
    return _core.Engine(**json.loads(name))


# An engine that falls out of the cache goes when the calls that are using it have returned. On a CPU
# its threads end with it. On CUDA it owns nothing on the device: what it has launched or a graph has
# captured holds its numbers by value and the addresses of the call's scratch, where the plan is
# sealed, and so outlives it.
@functools.lru_cache(maxsize=KEPT_ENGINES)
def engine_for(device, heads, queries, softmax_scale, window, compressed):
    return _core.Engine(
        heads, window, compressed, queries=queries, max_batch=_core.MAX_BATCH,
        softmax_scale=softmax_scale, backend=device.type, device=index_of(device),
    )  # fmt: skip


def aligned_bytes(count, device):
    if device.type != "cpu":  # torch aligns what it allocates there
        return torch.empty(count, dtype=torch.uint8, device=device)
    memory = torch.empty(count + ALIGNMENT, dtype=torch.uint8, device=device)
    return memory[-memory.data_ptr() % ALIGNMENT :][:count]


def current_stream(tensor):
    if not tensor.is_cuda:
        return 0
    return torch._C._cuda_getCurrentRawStream(tensor.get_device())


def pool_shape(pages, slots):
    if pages is None or slots is None:
        return None
    return pages.shape[1], slots.shape[-1], "fp8" if pages.element_size() == 1 else "bf16"


def rows_at_one_stride(slots):
    """The library takes one stride for all rows. A copy is one kernel, capturable as any."""
    if slots is None or slots.ndim != 3 or 1 in slots.shape[:2]:
        return slots
    return slots if slots.stride(0) == slots.shape[1] * slots.stride(1) else slots.contiguous()


def plan(engine, memory, order, batch, window_lengths, compressed_lengths):
    _core.plan_tensors(
        engine_named(engine), memory, batch, window_lengths, compressed_lengths,
        current_stream(memory),
    )  # fmt: skip


def decode(
    engine, memory, order, kind, q, out, lse, sink,
    window_pages, window_slots, compressed_pages, compressed_slots, empty_lse_is_positive=False,
):  # fmt: skip
    _core.decode_tensors(
        engine_named(engine), memory, kind, q, out, lse, sink,
        window_pages, window_slots, compressed_pages, compressed_slots,
        empty_lse_is_positive, current_stream(memory),
    )  # fmt: skip


def attend(
    q, out, lse, sink, window_pages, window_slots, window_lengths,
    compressed_pages, compressed_slots, compressed_lengths, softmax_scale,
    empty_lse_is_positive=False,
):  # fmt: skip
    window_slots = rows_at_one_stride(window_slots)
    compressed_slots = rows_at_one_stride(compressed_slots)
    queries = q.shape[1] if q.ndim == 4 else 1
    engine = engine_for(
        q.device, q.shape[-2], queries, softmax_scale,
        pool_shape(window_pages, window_slots), pool_shape(compressed_pages, compressed_slots),
    )  # fmt: skip
    # New at each call, from the allocator that knows about streams and captures: a plan that no
    # other call can see can't be stale.
    memory = aligned_bytes(engine.workspace_bytes, q.device)
    stream = current_stream(q)
    _core.plan_tensors(
        engine, memory, q.shape[0], window_lengths, (compressed_lengths,), stream
    )
    _core.decode_tensors(
        engine, memory, 0, q, out, lse, sink,
        window_pages, window_slots, compressed_pages, compressed_slots,
        empty_lse_is_positive, stream,
    )  # fmt: skip


def no_result(*arguments):
    """All operators write into their arguments."""


for name, function in {"plan": plan, "decode": decode, "attend": attend}.items():
    library.impl(name, function, "CPU")
    library.impl(name, function, "CUDA")
    torch.library.register_fake(f"steady::{name}", no_result, lib=library)
