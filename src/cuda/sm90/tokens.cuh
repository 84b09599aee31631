// SPDX-License-Identifier: Apache-2.0
// Tokens as they lie in pages, for those that are not copied and stored as most are.
#pragma once

#include "cuda/dequantise.cuh"
#include "cuda/sm90/common.cuh"

namespace steady::cuda::sm90 {

static_assert(STEADY_FP8_SCALE_GROUP == kBlockDims && STEADY_NOPE_DIM == (kBlocks - 1) * kBlockDims,
              "a block of values has one scale, and the last one is bf16");

/// What is copied where no slot names a token: zeros, which any scale leaves zeros. Several, so
/// that blocks that copy a tile of them do not all wait for the same lines of the L2 cache.
struct alignas(16) NoToken {
  uint8_t bytes[STEADY_FP8_TOKEN_BYTES];
};
__device__ const NoToken kNoTokens[32] = {};

/// Four bytes at any address.
__device__ inline uint32_t read_word(const uint8_t* bytes) {
  return bytes[0] | bytes[1] << 8 | bytes[2] << 16 | static_cast<uint32_t>(bytes[3]) << 24;
}

__device__ inline Chunk read_bytes(const uint8_t* bytes) {
  if (reinterpret_cast<uintptr_t>(bytes) % sizeof(Chunk) == 0)
    return *reinterpret_cast<const Chunk*>(bytes);
  return {read_word(bytes), read_word(bytes + 4), read_word(bytes + 8), read_word(bytes + 12)};
}

__device__ inline Chunk read_fp8_chunk(const Token& place, int chunk) {
  constexpr int kNopeHalves = STEADY_NOPE_DIM / kChunkDims;
  if (chunk >= kNopeHalves) {
    return read_bytes(place.data + STEADY_NOPE_DIM + (chunk - kNopeHalves) * sizeof(Chunk));
  }
  const uint8_t* bytes = place.data + chunk * kChunkDims;
  const uint32_t words[] = {read_word(bytes), read_word(bytes + 4)};
  uint32_t values[4];
  dequantise(words, place.scales[chunk * kChunkDims / STEADY_FP8_SCALE_GROUP], values);
  return {values[0], values[1], values[2], values[3]};
}

/// Eight values of a token at any address, in bf16.
__device__ inline Chunk read_token(const Token& token, int chunk) {
  return token.format == STEADY_CACHE_FP8 ? read_fp8_chunk(token, chunk)
                                          : read_bytes(token.data + chunk * sizeof(Chunk));
}

}  // namespace steady::cuda::sm90
