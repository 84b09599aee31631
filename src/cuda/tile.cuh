// SPDX-License-Identifier: Apache-2.0
// Slots in, a tile of de-quantised tokens in shared memory out: raw bytes travel asynchronously
// while the tile before is being used.
#pragma once

#include <cuda_bf16.h>

#include "cuda/attend.hpp"
#include "cuda/dequantise.cuh"

namespace steady::cuda {

inline constexpr int kThreads = 256;
inline constexpr int kTokens = 32;  // of a tile
inline constexpr int kThreadsAToken = kThreads / kTokens;
/// Elements from one vector in shared memory to the next: not a multiple of 128 bytes, so that the
/// eight rows of an 8×8 matrix lie in different banks.
inline constexpr int kVectorStride = kHeadDim + 8;
inline constexpr int kChunkBytes = 16;
/// Bytes of a token in the raw buffer, a whole number of chunks.
inline constexpr int kRawFp8Bytes =
    (STEADY_FP8_TOKEN_BYTES + kChunkBytes - 1) / kChunkBytes * kChunkBytes;
inline constexpr int kRawBf16Bytes = STEADY_BF16_TOKEN_BYTES;

/// What lies in a token's place of the raw buffer.
enum class Raw : uint8_t { kNothing, kFp8, kBf16 };

/// Walks a unit's tokens tile by tile. Each token is the business of kThreadsAToken threads.
class TileLoader {
 public:
  __device__ TileLoader(const LayerCall& call, uint8_t* raw, Raw* kinds, int raw_bytes)
      : call_(call), raw_(raw + token() * raw_bytes), kind_(kinds + token()) {}

  /// Starts at position `begin` of the row and fetches the slots of the first tile.
  __device__ void start(int row, const RowPlan& plan, int begin, int end) {
    row_ = row;
    window_ = plan.tokens[0];
    position_ = begin + token();
    end_ = end;
    slot_ = read_slot();
  }

  /// Begins to copy the next tile's tokens, and fetches the slots of the one after.
  __device__ void fetch() {
    const Pool& pool = call_.layer.scopes[position_ < window_ ? 0 : 1];
    const bool named = position_ < end_ && pool.has(slot_);
    const Raw kind = named ? copy(pool) : Raw::kNothing;
    if (lane() == 0) *kind_ = kind;
    position_ += kTokens;
    slot_ = read_slot();
  }

  /// Turns this thread's share of the raw tile into bf16 at `values`, the token's vector, and says
  /// in `named` whether a slot named the token; zeros if none did.
  __device__ void dequantise(__nv_bfloat16* values, bool* named) const {
    if (lane() == 0) *named = *kind_ != Raw::kNothing;
    auto* out = reinterpret_cast<uint4*>(values);
    const auto* chunks = reinterpret_cast<const uint4*>(raw_);
    const Raw kind = *kind_;
    if (kind == Raw::kFp8) {
      const uint8_t* scales = raw_ + STEADY_FP8_DATA_BYTES;
      for (int c = lane(); c < STEADY_FP8_DATA_BYTES / kChunkBytes; c += kThreadsAToken) {
        if (c < kNopeChunks) {
          const uint8_t scale = scales[c * kChunkBytes / STEADY_FP8_SCALE_GROUP];
          steady::cuda::dequantise(chunks[c], scale, &out[2 * c], &out[2 * c + 1]);
        } else {
          out[kNopeChunks + c] = chunks[c];
        }
      }
    } else {
      for (int c = lane(); c < kVectorChunks; c += kThreadsAToken) {
        out[c] = kind == Raw::kBf16 ? chunks[c] : uint4{0, 0, 0, 0};
      }
    }
  }

  __device__ static int token() { return static_cast<int>(threadIdx.x) / kThreadsAToken; }

 private:
  static constexpr int kNopeChunks =
      STEADY_NOPE_DIM / kChunkBytes;  // of e4m3; twice as many of bf16
  static constexpr int kVectorChunks = kHeadDim * 2 / kChunkBytes;

  __device__ static int lane() { return static_cast<int>(threadIdx.x) % kThreadsAToken; }

  __device__ int32_t read_slot() const {
    if (position_ >= end_) return -1;
    const int scope = position_ < window_ ? 0 : 1;
    const Pool& pool = call_.layer.scopes[scope];
    return pool.slots[row_ * pool.slots_stride + (scope == 0 ? position_ : position_ - window_)];
  }

  __device__ Raw copy(const Pool& pool) const {
    const auto [format, data, scales] = pool.token(slot_);
    const bool fp8 = format == STEADY_CACHE_FP8;
    const int bytes = fp8 ? STEADY_FP8_DATA_BYTES : STEADY_BF16_TOKEN_BYTES;
    const bool aligned = (reinterpret_cast<uintptr_t>(data) % kChunkBytes |
                          reinterpret_cast<uintptr_t>(scales) % STEADY_FP8_SCALE_BYTES) == 0;
    if (aligned) {
      for (int at = lane() * kChunkBytes; at < bytes; at += kThreadsAToken * kChunkBytes) {
        ptx::copy_async_16(raw_ + at, data + at);
      }
      if (fp8 && lane() == 0) ptx::copy_async_8(raw_ + STEADY_FP8_DATA_BYTES, scales);
    } else {  // legal, and slow
      for (int at = lane(); at < bytes; at += kThreadsAToken) raw_[at] = data[at];
      if (fp8 && lane() < STEADY_FP8_SCALES) raw_[STEADY_FP8_DATA_BYTES + lane()] = scales[lane()];
    }
    return fp8 ? Raw::kFp8 : Raw::kBf16;
  }

  const LayerCall& call_;
  uint8_t* raw_;  ///< of this thread's token
  Raw* kind_;
  int row_ = 0, window_ = 0, position_ = 0, end_ = 0;
  int32_t slot_ = -1;
};

}  // namespace steady::cuda
