# SPDX-License-Identifier: Apache-2.0
"""The decode step of DeepSeek-V4's sparse attention: tensors of any library in, answers in place.

    engine = steady.Engine(heads=64, window=steady.PoolShape(64, 128), max_batch=8)
    workspace = steady.Workspace(engine)
    step = steady.Step(engine, batch=8, window_lengths=lengths)
    layer = steady.Layer(engine, q, out, window=steady.Pool(pages, slots))
    engine.plan(workspace, step)
    engine.decode(workspace, step, layer)

The nouns are those of the C interface, and so are the errors' words. Nothing is copied, and a call
neither allocates nor waits for the device. `steady.torch` has the same as operators of torch,
`steady.flash_mla` the function that engines call today. `python -m steady` is the command line.
"""

from typing import Any, NamedTuple

from ._core import (
    BF16_TOKEN_BYTES,
    FP8_TOKEN_BYTES,
    HEAD_DIM,
    MAX_BATCH,
    MAX_HEADS,
    MAX_KINDS,
    MAX_QUERIES,
    MAX_TOKENS,
    Engine,
    Error,
    Graph,
    InvalidArgument,
    Layer,
    Step,
    Stream,
    Workspace,
    __version__,
    backends,
    pack_token,
    page_bytes,
    unpack_token,
)


class PoolShape(NamedTuple):
    """One paged store of tokens, as far as it is fixed for an engine."""

    page_tokens: int
    """Tokens a page, 1 or more."""
    max_tokens: int
    """Width: slots a row, 0 to MAX_TOKENS. 0: there is no such pool."""
    format: str = "fp8"
    """'fp8', FP8_TOKEN_BYTES a token, as vLLM's fp8_ds_mla; or 'bf16', 512 bfloat16."""


class Pool(NamedTuple):
    """The tensors of one paged store; see Layer for their shapes."""

    pages: Any
    slots: Any


__all__ = [
    "BF16_TOKEN_BYTES",
    "FP8_TOKEN_BYTES",
    "HEAD_DIM",
    "MAX_BATCH",
    "MAX_HEADS",
    "MAX_KINDS",
    "MAX_QUERIES",
    "MAX_TOKENS",
    "Engine",
    "Error",
    "Graph",
    "InvalidArgument",
    "Layer",
    "Pool",
    "PoolShape",
    "Step",
    "Stream",
    "Workspace",
    "__version__",
    "backends",
    "pack_token",
    "page_bytes",
    "unpack_token",
]
