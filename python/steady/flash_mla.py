# SPDX-License-Identifier: Apache-2.0
"""FlashMLA's call for sparse decoding in, its answers out, computed by Steady.

    from steady.flash_mla import flash_mla_with_kvcache, get_mla_metadata

Signature, shapes and meaning are FlashMLA's for the FP8 cache of DeepSeek-V4. Beyond it there may
be 1 to 128 heads, any width of the indices, and a length for each query. Dense attention and the
656-byte cache of DeepSeek-V3.2 are refused.
"""

import dataclasses
from typing import Any, Optional

from . import HEAD_DIM, FP8_TOKEN_BYTES, InvalidArgument
from . import torch as _torch
from .torch import Tensor

__all__ = ["FlashMLASchedMeta", "flash_mla_with_kvcache", "get_mla_metadata"]


@dataclasses.dataclass
class FlashMLASchedMeta:
    """Stands where FlashMLA's metadata stand, and holds nothing.

    Every call plans with the lengths that its tensors hold when it runs, in the stream and so in
    the captured graph. So there is nothing to go stale, whatever is called with it, and when.
    """

    have_initialized: bool = False
    config: Any = None
    tile_scheduler_metadata: Any = None
    num_splits: Any = None


def get_mla_metadata(*args, **kwargs) -> tuple[FlashMLASchedMeta, None]:
    """Returns (FlashMLASchedMeta, None), whatever the arguments, as FlashMLA does."""
    return FlashMLASchedMeta(), None


def flash_mla_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    block_table: Optional[Tensor] = None,
    cache_seqlens: Optional[Tensor] = None,
    head_dim_v: int = HEAD_DIM,
    tile_scheduler_metadata: Any = None,
    num_splits: None = None,
    softmax_scale: Optional[float] = None,
    causal: bool = False,
    is_fp8_kvcache: bool = False,
    indices: Optional[Tensor] = None,
    attn_sink: Optional[Tensor] = None,
    extra_k_cache: Optional[Tensor] = None,
    extra_indices_in_kvcache: Optional[Tensor] = None,
    topk_length: Optional[Tensor] = None,
    extra_topk_length: Optional[Tensor] = None,
    out: Optional[Tensor] = None,
) -> tuple[Tensor, Tensor]:
    """Attends to the tokens that `indices` name in k_cache, and to those of the extra cache.

    q            bfloat16 [b, s_q, h_q, 512], 1 to 128 heads, 1 to 8 queries
    k_cache      1-byte elements [blocks, block_size, 1, FP8_TOKEN_BYTES]; blocks may lie further
                 apart
    indices      int32 [b, s_q, topk], block * block_size + token; outside the cache: none
    topk_length  int32 [b], or [b, s_q] with a length for each query; None: all
    attn_sink    float32 [h_q], or None
    extra_...    the same for a second cache, or None
    out          bfloat16 [b, s_q, h_q, 512] to be written, or None: a new one
    softmax_scale  512^-0.5 if None

    Returns (out, softmax_lse), softmax_lse float32 [b, h_q, s_q], the natural logarithm without the
    sink, a view whose queries and heads are swapped. A row without tokens has out 0 and lse +inf.
    block_table, cache_seqlens and the metadata are not looked at; num_splits must be None.

    Runs on torch's current stream, may be captured, and never waits. Raises steady.InvalidArgument.
    """
    _refuse_what_is_not_covered(
        q, k_cache, head_dim_v, num_splits, causal, is_fp8_kvcache, indices
    )
    extra = None
    if extra_k_cache is not None:
        if extra_indices_in_kvcache is None:
            raise _refusal("extra_k_cache is given without extra_indices_in_kvcache")
        extra = (extra_k_cache, extra_indices_in_kvcache)
    elif extra_indices_in_kvcache is not None or extra_topk_length is not None:
        raise _refusal("extra indices or lengths are given without extra_k_cache")
    return _torch.attend(
        q,
        (k_cache, indices),
        extra,
        window_lengths=topk_length,
        compressed_lengths=extra_topk_length,
        sink=attn_sink,
        softmax_scale=HEAD_DIM**-0.5 if softmax_scale is None else softmax_scale,
        out=out,
        empty_lse_is_positive=True,
        heads_first_lse=True,
    )


def _refusal(sentence):
    error = InvalidArgument(sentence)
    error.status = "STEADY_INVALID_ARGUMENT"
    return error


def _refuse_what_is_not_covered(
    q, k_cache, head_dim_v, num_splits, causal, is_fp8_kvcache, indices
):
    if indices is None:
        raise _refusal(
            "indices is None, which asks for dense attention; Steady computes sparse decoding alone"
        )
    if q.ndim != 4 or k_cache.ndim != 4:
        raise _refusal(
            f"q has {q.ndim} dimensions and k_cache {k_cache.ndim}; they must be [b, s_q, h_q, 512]"
            f" and [blocks, block_size, 1, {FP8_TOKEN_BYTES}]"
        )
    if q.shape[-1] != HEAD_DIM:
        raise _refusal(
            f"q has heads of {q.shape[-1]}; Steady reads the {FP8_TOKEN_BYTES}-byte cache, whose "
            f"heads are {HEAD_DIM} wide, and not the 656-byte cache of DeepSeek-V3.2"
        )
    if head_dim_v != HEAD_DIM:
        raise _refusal(f"head_dim_v is {head_dim_v}; it must be {HEAD_DIM}")
    _, _, key_heads, token_bytes = k_cache.shape
    if not is_fp8_kvcache or key_heads != 1 or token_bytes != FP8_TOKEN_BYTES:
        raise _refusal(
            f"k_cache is {list(k_cache.shape)} with is_fp8_kvcache={is_fp8_kvcache}; sparse "
            f"decoding needs FP8 tokens of [blocks, block_size, 1, {FP8_TOKEN_BYTES}]"
        )
    if causal:
        raise _refusal("causal is True; sparse decoding attends to what the indices name")
    if num_splits is not None:
        raise _refusal("num_splits must be None, as get_mla_metadata returns it")
