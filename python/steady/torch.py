# SPDX-License-Identifier: Apache-2.0
"""Tensors of torch in, answers by operators that torch.compile and graph capture understand out.

Two ways through, over the same library:

    engine = steady.torch.Engine(heads=64, window=PoolShape(64, 128), max_batch=256, device="cuda")
    workspace = engine.workspace()                      # at set-up
    engine.plan(workspace, batch, window_lengths)       # once a step
    engine.decode(workspace, q, out, window=Pool(pages, slots))     # each layer

    out, lse = steady.torch.attend(q, Pool(pages, slots))           # plan and decode in one call

All of it runs on torch's current stream of the tensors' device, allocates only with torch's
allocator (plan and decode allocate nothing) and never waits for the device, so that it can be
captured by torch.cuda.graph and replayed while lengths, slots, queries and pages change in place.
As with torch's own calls, a tensor that was made on another stream must be kept until the call ran.
No operator has a gradient.

The operators are torch.ops.steady.plan, decode and attend. An engine stands in their arguments as a
text that describes it, and is made where such a text is met first; so there is no handle that could
dangle, and a graph that was exported names all it needs. Engines that have such a text live as long
as the process; attend keeps those that it used last.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from . import Pool, PoolShape, _core, _operators

__all__ = ["Engine", "Pool", "PoolShape", "Workspace", "attend"]

_SOFTMAX_SCALE = 512**-0.5


class Workspace(NamedTuple):
    """Scratch for one stream of steps: all kinds, layers and graphs in turn."""

    memory: Tensor
    """uint8, 256-byte aligned. It must live as long as the graphs that use it."""
    order: Tensor
    """Nothing is in it. Plan and decode are declared to write it, which tells a compiler to keep
    them in order; declared to write the memory, they would make it copy the scratch."""


class Engine:
    """What is fixed for a model's attention on one device; see steady.Engine for the arguments.

    `device` is torch's: "cuda:1", "cpu". The backend is the device's, or "oracle" for the
    specification on the CPU. Raises steady.InvalidArgument for a shape that no backend takes,
    steady.Error where it can't run here, and torch's own error for a device that torch has not.

    The attributes are `device`, a torch.device with its number; `name`, the text that describes the
    engine to the operators; and `workspace_bytes`, of scratch for a stream of steps.
    """

    def __init__(
        self,
        heads: int,
        window: Optional[PoolShape] = None,
        compressed: Any = None,
        *,
        queries: int = 1,
        max_batch: int = 1,
        softmax_scale: float = _SOFTMAX_SCALE,
        backend: Optional[str] = None,
        device: Any = "cuda",
        threads: int = 0,
        checked: bool = False,
    ):
        given = torch.device(device)
        self.device = torch.device(given.type, _operators.index_of(given))
        description = {
            "heads": heads,
            "window": window,
            "compressed": compressed,
            "queries": queries,
            "max_batch": max_batch,
            "softmax_scale": softmax_scale,
            "backend": backend or self.device.type,
            "device": self.device.index,
            "threads": threads,
            "checked": checked,
        }
        self.name = json.dumps(description)
        self.workspace_bytes = _operators.engine_named(self.name).workspace_bytes

    def workspace(self) -> Workspace:
        """A new Workspace. Make it at set-up."""
        order = torch.zeros(1, dtype=torch.uint8, device=self.device)
        return Workspace(_operators.aligned_bytes(self.workspace_bytes, self.device), order)

    def plan(
        self,
        workspace: Workspace,
        batch: int,
        window_lengths: Optional[Tensor] = None,
        compressed_lengths: Sequence[Optional[Tensor]] = (),
    ) -> None:
        """Plans a step of `batch` requests, before its layers and on the same stream.

        Lengths are int32 [batch], or [batch, queries] with a length for each query, on the engine's
        device; None counts all slots. compressed_lengths has one entry for each kind.
        """
        call = torch.ops.steady.plan if _operators.is_watched(workspace.memory) else _operators.plan
        call(self.name, *workspace, batch, window_lengths, list(compressed_lengths))

    def decode(
        self,
        workspace: Workspace,
        q: Tensor,
        out: Tensor,
        *,
        window: Optional[tuple[Tensor, Tensor]] = None,
        compressed: Optional[tuple[Tensor, Tensor]] = None,
        kind: int = 0,
        lse: Optional[Tensor] = None,
        sink: Optional[Tensor] = None,
        empty_lse_is_positive: bool = False,
    ) -> None:
        """Computes one layer with the plan in the workspace into `out`, and `lse` if given.

        The shapes are those of steady.Layer; the batch is that of q and must be the planned one.
        """
        window_pages, window_slots = window or (None, None)
        pages, slots = compressed or (None, None)
        call = torch.ops.steady.decode if _operators.is_watched(q, sink) else _operators.decode
        call(
            self.name, *workspace, kind, q, out, lse, sink,
            window_pages, window_slots, pages, slots, empty_lse_is_positive,
        )  # fmt: skip

    def report(self, workspace: Workspace) -> dict[str, dict[str, int]]:
        """What a checked engine met since the last plan; see steady.Engine.report. Waits for the
        current stream."""
        engine = _operators.engine_named(self.name)
        stream = _operators.current_stream(workspace.memory)
        return engine.report(_core.Workspace(engine, workspace.memory), stream)


def _new_lse(q, heads_first):
    """By sizes and strides, which cost torch less of the host than sizes alone."""
    if q.ndim != 4:
        return q.new_empty(q.shape[:-1], dtype=torch.float32)
    batch, queries, heads, _ = q.shape
    sizes, strides = (batch, queries, heads), (queries * heads, heads, 1)
    if heads_first:
        sizes, strides = (batch, heads, queries), (queries * heads, 1, heads)
    return q.new_empty_strided(sizes, strides, dtype=torch.float32)


def attend(
    q: Tensor,
    window: tuple[Tensor, Tensor],
    compressed: Optional[tuple[Tensor, Tensor]] = None,
    *,
    window_lengths: Optional[Tensor] = None,
    compressed_lengths: Optional[Tensor] = None,
    sink: Optional[Tensor] = None,
    softmax_scale: float = _SOFTMAX_SCALE,
    out: Optional[Tensor] = None,
    lse: Optional[Tensor] = None,
    empty_lse_is_positive: bool = False,
    heads_first_lse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Plans and decodes one layer in one call, with an engine and scratch of its own.

    q           bfloat16 [batch, queries, heads, 512]; only the last dimension need be contiguous
    window      Pool: pages [pages, page_tokens, ...] and slots int32 [batch, queries, width]. Pages
                of 1-byte elements hold 'fp8' tokens, pages of bfloat16 'bf16' ones
    compressed  Pool of the second scope, or None
    ..._lengths int32 [batch] or [batch, queries]; None: all slots count
    sink        float32 [heads], or None
    out, lse    bfloat16 like q and float32 [batch, queries, heads] to be written, or None: new ones
    heads_first_lse  lse is [batch, heads, queries], as FlashMLA has it; a new one lies as otherwise

    q may also be [batch, heads, 512], for one query a request, and out and lse like it.

    Returns (out, lse); lse is -inf for a row without tokens, or +inf if so asked. A step of many
    layers costs less with an Engine, which plans once. Where slots have several queries and
    requests do not follow each other at a multiple of the queries' stride, they are copied first.
    """
    if out is None:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
    if lse is None:
        lse = _new_lse(q, heads_first_lse)
    pages, slots = compressed or (None, None)
    call = torch.ops.steady.attend if _operators.is_watched(q, sink) else _operators.attend
    call(
        q, out, lse, sink, window[0], window[1], window_lengths, pages, slots,
        compressed_lengths, softmax_scale, empty_lse_is_positive, heads_first_lse,
    )  # fmt: skip
    return out, lse
