/* SPDX-License-Identifier: Apache-2.0
 * The bytes of the cache: what a page of cached tokens looks like. The only place where the
 * layout's numbers stand; docs/cache-format.md says the same in prose. */
#ifndef STEADY_CACHE_FORMAT_H_
#define STEADY_CACHE_FORMAT_H_

#include <stddef.h>
#include <stdint.h>

/* One cached token is one vector of 512 values, used as key and as value: 448 values without
 * position (NoPE) and 64 that carry the rotary position (RoPE). */
#define STEADY_HEAD_DIM 512
#define STEADY_NOPE_DIM 448
#define STEADY_ROPE_DIM 64

/* STEADY_CACHE_FP8: 448 e4m3 bytes and 64 bf16 make 576 bytes of data. A page holds the data of all
 * its tokens first, then 8 bytes of scales a token: 7 ue8m0 bytes, one for each 64 NoPE values, and
 * one byte that nobody reads. 584 bytes a token in all ("fp8_ds_mla" of vLLM, "MODEL1" of
 * FlashMLA). */
#define STEADY_FP8_DATA_BYTES 576
#define STEADY_FP8_SCALE_BYTES 8
#define STEADY_FP8_TOKEN_BYTES 584
#define STEADY_FP8_SCALE_GROUP 64 /* values that share a scale */
#define STEADY_FP8_SCALES 7       /* scales of a token */

/* STEADY_CACHE_BF16: 512 bf16 values a token, one token after the other. */
#define STEADY_BF16_TOKEN_BYTES 1024

#if defined(__CUDACC__) || defined(__HIPCC__)
#define STEADY_FORMAT_FUNCTION __host__ __device__ static inline
#else
#define STEADY_FORMAT_FUNCTION static inline
#endif

/* Callers may put any int where an enum is asked for and get an error back, so C++ must not assume
 * that only the named values occur. */
#ifdef __cplusplus
#define STEADY_ANY_INT : int
#else
#define STEADY_ANY_INT
#endif

typedef enum steady_cache_format STEADY_ANY_INT {
  STEADY_CACHE_FP8 = 0,
  STEADY_CACHE_BF16 = 1
} steady_cache_format;

/* Fewest bytes from one page to the next. FlashMLA and vLLM round it up to a multiple of 576. */
STEADY_FORMAT_FUNCTION int64_t steady_page_bytes(steady_cache_format format, int32_t page_tokens) {
  return (int64_t)page_tokens *
         (format == STEADY_CACHE_FP8 ? STEADY_FP8_TOKEN_BYTES : STEADY_BF16_TOKEN_BYTES);
}

/* Where token `token` (0 … page_tokens - 1) of a page keeps its data, in bytes from the page's
 * begin. */
STEADY_FORMAT_FUNCTION int64_t steady_data_offset(steady_cache_format format, int32_t token) {
  return (int64_t)token *
         (format == STEADY_CACHE_FP8 ? STEADY_FP8_DATA_BYTES : STEADY_BF16_TOKEN_BYTES);
}

/* Where token `token` of an FP8 page keeps its scales, in bytes from the page's begin. */
STEADY_FORMAT_FUNCTION int64_t steady_fp8_scales_offset(int32_t page_tokens, int32_t token) {
  return (int64_t)page_tokens * STEADY_FP8_DATA_BYTES + (int64_t)token * STEADY_FP8_SCALE_BYTES;
}

#endif
