// SPDX-License-Identifier: Apache-2.0
// What the ways to attend on Hopper have in common: how the plan is read, how vectors lie in shared
// memory, heads in the rows of products where they are rows, and how buffers are handed over.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "core/work.hpp"
#include "cuda/divisor.hpp"
#include "cuda/ptx/grid.cuh"
#include "cuda/row_state.cuh"
#include "cuda/sm90/attend.hpp"

namespace steady::cuda::sm90 {

inline constexpr int kTokens = 64;  // of a tile
/// Vectors lie in blocks of 64 values, so that a line of a block is 128 bytes.
inline constexpr int kBlockDims = 64, kBlocks = kHeadDim / kBlockDims;
inline constexpr int kGroupThreads = 128;           // a warpgroup
inline constexpr int kWarps = kGroupThreads / 32;   // of a warpgroup
inline constexpr int kThreads = 4 * kGroupThreads;  // of a block, but by columns
inline constexpr int kMostHeads = 64;               // of a block: the rows of products

/// What blocks are told, by value: beside the layer what the launch has worked out, so that threads
/// need not divide for it.
struct Call : LayerCall {
  Divisor page_tokens[kScopes];  // of each scope; divides slots into pages
  int group_heads;               // of each group but the last

  /// Where the token of a slot lies that the scope's pool has.
  __device__ Token token(int scope, int32_t slot) const {
    return layer.scopes[scope].token(slot, page_tokens[scope].divide(slot));
  }
};

/// Registers of a thread when a block begins, as the launch bounds have them: all of a
/// multiprocessor's. Who takes more can have what others give up, and waits for ever if that is not
/// enough.
inline constexpr int kRegistersAtFirst = 65536 / kThreads;

/// Of what plan has written, which may be read before earlier grids are waited for: plan lets
/// nobody begin before it has ended, so it is over when any grid behind it begins.
template <class T>
__device__ T read_plan(const T* from) {
  T result;
  if constexpr (sizeof(T) == sizeof(uint4)) {
    ptx::load_past_l1(reinterpret_cast<uint4*>(&result), from);
  } else {
#pragma unroll
    for (size_t i = 0; i < sizeof(T) / sizeof(uint32_t); ++i)
      ptx::load_past_l1(reinterpret_cast<uint32_t*>(&result) + i,
                        reinterpret_cast<const uint32_t*>(from) + i);
  }
  return result;
}

/// planned(), before earlier grids are waited for. What else read_plan() reads may be garbage until
/// this is known, but it is there to be read.
__device__ inline bool planned_early(const LayerCall& call) {
  const PlanHeader& header = *call.tables.plan.header;
  const uint64_t seal = read_plan(&header.seal);
  const int32_t batch = read_plan(&header.batch);
  return seal == call.seal && batch == call.layer.batch;
}

/// Has the parameters brought into the cache for constants, by a word of every 64 bytes.
__device__ inline void touch_parameters(const Call& call) {
  const auto* const words = reinterpret_cast<const uint32_t*>(&call);
#pragma unroll
  for (size_t i = 0; i < sizeof call / sizeof *words; i += 16) ptx::touch(words[i]);
}

/// 16 bytes of bf16.
using Chunk = uint4;
inline constexpr int kChunkDims = 8, kBlockChunks = kBlockDims / kChunkDims;

/// Lines of eight chunks, swizzled as products want them.
template <int kLines>
struct alignas(1024) Lines {
  Chunk lines[kLines][kBlockChunks];

  __device__ Chunk* at(int line, int chunk) { return &lines[line][chunk ^ line % kBlockChunks]; }
};
using Block = Lines<64>;
/// Eight vectors with all their values, which lie together.
struct Octet {
  static constexpr int kVectors = 8;
  Lines<kVectors> blocks[kBlocks];
};

/// Of its warp's sixteen rows of a product a lane has one in each half. Up to 32 heads fill one
/// half, so that all warps have some.
template <int kHeads>
struct Rows {
  static_assert(kHeads == 32 || kHeads == kMostHeads);
  static constexpr int kHalves = kHeads / 32;

  /// The first head in half `half` of warp `warp`'s rows, and the row of a head.
  __device__ static int first_head(int warp, int half) {
    return kHalves == 1 ? 8 * warp : 16 * warp + 8 * half;
  }
  __device__ static int row_of(int head) {
    return kHalves == 1 ? 16 * (head / 8) + head % 8 : head;
  }
};

/// So many tiles have tokens `begin` to `end` of a unit. An empty one has a tile, too.
__device__ inline int tiles_between(int begin, int end) {
  return end <= begin ? 1 : (end - begin + kTokens - 1) / kTokens;
}

/// Goes around buffers that barriers guard.
template <uint32_t kCount>
struct Ring {
  uint32_t index = 0, parity = 0;
  /// After so many buffers. Who keeps their number needs one register for several rings.
  __device__ static Ring after(uint32_t buffers) {
    return {buffers % kCount, buffers / kCount % 2};
  }
  /// By as many buffers as there are at most.
  __device__ void advance(uint32_t buffers = 1) {
    index += buffers;
    if (index < kCount) return;
    index -= kCount;
    parity ^= 1;
  }
  /// Waits until the buffer has been filled in this round.
  __device__ void wait_full(uint64_t (&full)[kCount]) const { ptx::wait(&full[index], parity); }
  /// Whether it has been.
  __device__ bool is_full(uint64_t (&full)[kCount]) const {
    return ptx::is_over(&full[index], parity);
  }
  /// Waits until what the round before put there is no longer needed.
  __device__ void wait_empty(uint64_t (&empty)[kCount]) const {
    ptx::wait(&empty[index], parity ^ 1);
  }
};

/// Where what a unit comes to belongs.
struct UnitPlace {
  bool split;     // in `slot`, because the row is merged later
  bool joins;     // otherwise: is added to the units before it
  bool finishes;  // and completes the row's answer
  int slot;       // of a split row
};
__device__ inline UnitPlace place_of(const RowPlan& row, int units, int unit) {
  const bool split = row.first_slot != RowPlan::kWhole;
  return {split, !split && unit > 0, !split && unit + 1 == units, row.first_slot + unit};
}

/// What this thread of a weigher keeps of a row that goes on: so many values, in each of the grid's
/// weighers, of which this is the `weigher`-th of its block's.
template <int kValues>
__device__ float4* kept_sums(const Call& call, int weighers, int weigher) {
  const int block = static_cast<int>(blockIdx.y * gridDim.x) + ptx::block_number();
  return reinterpret_cast<float4*>(call.tables.kept) +
         (static_cast<int64_t>(block) * weighers + weigher) * (kValues / 4 * kGroupThreads) +
         ptx::thread_number() % kGroupThreads;
}

/// The heads of this block.
__device__ inline int first_head(const Call& call) {
  return static_cast<int>(blockIdx.y) * call.group_heads;
}
__device__ inline int heads_here(const Call& call) {
  return min(call.group_heads, call.heads - first_head(call));
}

/// Two sums, rounded; the first one in the lower half.
__device__ inline uint32_t bf16x2(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

/// Each of a quad's lanes has four words; afterwards the i-th lane has the i-th word of all four.
__device__ inline void transpose_in_quad(uint32_t (&words)[4]) {
#pragma unroll
  for (int step = 1; step < 4; step *= 2) {
    const bool upper = (ptx::thread_number() & step) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if ((i & step) != 0) continue;
      uint32_t &first = words[i], &second = words[i + step];
      const uint32_t got = __shfl_xor_sync(~0u, upper ? first : second, step);
      first = upper ? got : first;
      second = upper ? second : got;
    }
  }
}

}  // namespace steady::cuda::sm90
