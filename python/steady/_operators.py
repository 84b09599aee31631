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
    " bool empty_lse_is_positive=False, bool heads_first_lse=False) -> ()"
)


def is_watched(tensor, sink=None):
    """Whether a compiler, a trace, a transform, a mode or a class of tensors wants to see operators,
    or the dispatcher has to make numbers of what torch remembers as their negatives. Where nothing
    does, it costs the host more than it is worth."""
    return (
        torch.compiler.is_compiling()
        or type(tensor) is not Tensor
        or tensor.is_neg()
        or (sink is not None and sink.is_neg())
        or _len_torch_dispatch_stack()
        or _len_torch_function_stack()
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


def engine_like(q, heads, queries, softmax_scale, window, compressed):
    return _core.Engine(
        heads, window, compressed, queries=queries, max_batch=_core.MAX_BATCH,
        softmax_scale=softmax_scale, backend=q.device.type, device=index_of(q.device),
    )  # fmt: skip


# An engine that falls out of the cache goes when the calls that are using it have returned. On a CPU
# its threads end with it. On CUDA it owns nothing on the device: what it has launched or a graph has
# captured holds its numbers by value and the addresses of the call's scratch, where the plan is
# sealed, and so outlives it.
engine_for = _core.EngineCache(engine_like, KEPT_ENGINES)


def aligned_bytes(count, device):
    if device.type != "cpu":  # torch aligns what it allocates there
        return torch.empty(count, dtype=torch.uint8, device=device)
    memory = torch.empty(count + ALIGNMENT, dtype=torch.uint8, device=device)
    return memory[-memory.data_ptr() % ALIGNMENT :][:count]


def current_stream(tensor):
    if not tensor.is_cuda:
        return 0
    return torch._C._cuda_getCurrentRawStream(tensor.get_device())


# What stands behind the operators takes its arguments as they come. Where the tensors of this torch
# have no table for C that tells the stream and allocates, it calls the functions given here.
plan = functools.partial(_core.plan_tensors, engine_named, current_stream)
decode = functools.partial(_core.decode_tensors, engine_named, current_stream)
attend = functools.partial(_core.attend_tensors, engine_for, aligned_bytes, current_stream)


def no_result(*arguments):
    """All operators write into their arguments."""


for name, function in {"plan": plan, "decode": decode, "attend": attend}.items():
    library.impl(name, function, "CPU")
    library.impl(name, function, "CUDA")
    torch.library.register_fake(f"steady::{name}", no_result, lib=library)
