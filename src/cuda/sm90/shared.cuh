// SPDX-License-Identifier: Apache-2.0
// What the roles of a block share: queries, buffers of tokens, scores and weights, and the barriers
// that hand them over.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "core/work.hpp"
#include "cuda/divisor.hpp"
#include "cuda/ptx/cluster.cuh"
#include "cuda/row_state.cuh"
#include "cuda/sm90/attend.hpp"

namespace steady::cuda::sm90 {

inline constexpr int kTokens = 64;    // of a tile: the columns of scores
inline constexpr int kProducts = 64;  // rows of any product: places for heads
/// Vectors lie in blocks of 64 values, so that a line of a block is 128 bytes.
inline constexpr int kBlockDims = 64, kBlocks = kHeadDim / kBlockDims;
inline constexpr int kGroupThreads = 128;          // a warpgroup
inline constexpr int kWarps = kGroupThreads / 32;  // of a warpgroup
/// Warpgroups: one scores, one weighs, two bring tokens.
inline constexpr int kProducerWarps = 2 * kWarps;
inline constexpr int kThreads = 4 * kGroupThreads;

/// 16 bytes of bf16.
using Chunk = uint4;
inline constexpr int kChunkDims = 8, kBlockChunks = kBlockDims / kChunkDims;

/// 64 lines of eight chunks, swizzled as products want them.
struct alignas(1024) Block {
  Chunk lines[64][kBlockChunks];

  __device__ Chunk* at(int line, int chunk) { return &lines[line][chunk ^ line % kBlockChunks]; }
};

/// Of slots into pages.
struct Divisors {
  Divisor of_scope[kScopes];
};

/// How a row is shared: `kCluster` blocks of a cluster have an equal share of each vector's values,
/// and each does all tokens for the same heads, `kHeads` at most. Eight of them are an octet; the
/// octets' softmax is dealt to the blocks in turn.
template <int kHeads_, int kCluster_>
struct Share {
  static constexpr int kHeads = kHeads_, kCluster = kCluster_;
  static constexpr int kOwnBlocks = kBlocks / kCluster;
  static constexpr int kOwnDims = kOwnBlocks * kBlockDims;
  /// Of a warp's sixteen rows of a product, a lane has one in each half. Few heads fill one half.
  static constexpr int kHalves = kHeads / 32;
  static_assert(kHeads == 32 || (kHeads == 64 && kCluster == 2));
  static constexpr uint32_t kTokenBuffers = kCluster == 2 ? 3 : 6;
  static constexpr uint32_t kBuffers = kCluster == 2 ? 3 : 4;  // between scorers and weighers
  /// Producers' lanes that share a token, and the warps that so bring a tile: where a block's share
  /// of the values is small, half of them, in turn with the others.
  static constexpr int kLanesAToken = kCluster == 2 ? 4 : 2;
  static constexpr int kTeamWarps = kTokens * kLanesAToken / 32;

  /// The octet in half `half` of warp `warp`'s rows in block `rank`: of two, its own comes first.
  __device__ static int octet_of(int warp, int half, int rank) {
    return kHalves == 1 ? warp : 2 * warp + (half ^ rank);
  }
  /// The block that has an octet's softmax, among so many.
  static constexpr int kOwnOctets = kHeads / 8 / kCluster;
  __device__ static int owner_of(int octet) { return octet % kCluster; }
  __device__ static int number_of(int octet) { return octet / kCluster; }
  /// Where block `rank` has a head of the group, as a row of its products.
  __device__ static int row_of(int head, int rank) {
    const int octet = head / 8;
    const int first = kHalves == 1 ? 16 * octet : 16 * (octet / 2) + 8 * (octet % 2 ^ rank);
    return first + head % 8;
  }
};

/// Goes around buffers that barriers guard.
template <uint32_t kCount>
struct Ring {
  uint32_t index = 0, parity = 0;
  __device__ void advance() {
    if (++index < kCount) return;
    index = 0;
    parity ^= 1;
  }
  /// Waits until the buffer has been filled in this round.
  __device__ void wait_full(uint64_t (&full)[kCount]) const { ptx::wait(&full[index], parity); }
  /// Waits until what the round before put there is no longer needed.
  __device__ void wait_empty(uint64_t (&empty)[kCount]) const {
    ptx::wait(&empty[index], parity ^ 1);
  }
};

/// All of this warp is done with what the barrier guards.
__device__ inline void hand_over(uint64_t* barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) ptx::arrive(barrier);
}

/// The same to the barrier of every block of the cluster.
template <class S>
__device__ inline void hand_over_to_cluster(uint64_t* barrier) {
  __syncwarp();
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (lane < S::kCluster) ptx::arrive(ptx::in_block(barrier, lane));
}

/// Scores of a tile that a lane has for one head.
inline constexpr int kLaneScores = 16;

/// What makes of a unit's sums what is to be left of them, for one head.
struct alignas(16) UnitResult {
  float sum;                        // of the weights as they are, before rounding
  float out_weight;                 // of a row's answer
  float left_weight, right_weight;  // of the row so far and of this unit
};

template <class S>
struct Shared {
  Block q[2][S::kOwnBlocks];  // of a row and the next one
  Block tokens[S::kTokenBuffers][S::kOwnBlocks];
  Block weights[S::kBuffers];  // heads by tokens
  /// The other blocks' shares of the own octets' scores, by the difference in rank, and for each
  /// lane of the warps that own one.
  float4 scores[S::kBuffers][S::kCluster - 1][kLaneScores / 4][S::kOwnOctets][32];
  /// Of each producer warp: slots of the batch to be looked up next, scales of the tile in
  /// registers.
  int32_t slots[kProducerWarps][32];
  uint32_t scales[kProducerWarps][kTokens / S::kTeamWarps];
  uint64_t named[S::kTokenBuffers];  // a bit for each token that a slot names
  /// A block's first lines: eight columns of ones.
  alignas(1024) Chunk ones[8][kBlockChunks];
  /// By row of a product: what the sums so far are worth after references moved, and what a unit
  /// comes to. An octet's lie together, to be sent to the other blocks.
  alignas(16) float old_weight[S::kBuffers][kProducts];
  UnitResult results[kProducts];
  // From producers to scorer and weigher and back, from the cluster's scorers to its weighers and
  // back.
  uint64_t tokens_full[S::kTokenBuffers], tokens_empty[S::kTokenBuffers];
  uint64_t weights_full[S::kBuffers], weights_empty[S::kBuffers];
  uint64_t unit_full[1], unit_empty[1];
  // From each warp of a scorer to its like in the other blocks.
  uint64_t scores_full[kWarps][S::kBuffers], scores_empty[kWarps][S::kBuffers];
};

/// Barriers that warpgroups have among themselves; 0 is the block's.
struct NamedBarriers {
  static constexpr int kScorer = 1;
};

/// The part of this block's cluster.
template <class S>
__device__ inline int own_part() {
  return ptx::block_number() / S::kCluster;
}

/// The heads of this block.
__device__ inline int first_head(const LayerCall& call) {
  return static_cast<int>(blockIdx.y) * group_heads(call.heads, static_cast<int>(gridDim.y));
}
__device__ inline int heads_here(const LayerCall& call) {
  return min(group_heads(call.heads, static_cast<int>(gridDim.y)), call.heads - first_head(call));
}

/// Two sums, rounded; the first one in the lower half.
__device__ inline uint32_t bf16x2(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

/// Goes through the tiles of a part, row after row, unit after unit. Every row has a tile, if an
/// empty one.
class TileCursor {
 public:
  __device__ TileCursor(const LayerCall& call, const PartRange& range)
      : call_(call), range_(range), row_(range.begin.row), unit_(range.begin.unit) {
    if (valid()) begin_row();
  }

  __device__ bool valid() const {
    return row_ < range_.end.row || (row_ == range_.end.row && unit_ < range_.end.unit);
  }
  __device__ void advance() {
    tile_ += kTokens;
    if (tile_ < unit_end()) return;
    ++unit_;
    if (unit_ < units_.count) {
      tile_ = unit_ * units_.tokens_each;
    } else {
      ++row_;
      unit_ = 0;
      if (valid()) begin_row();
    }
  }

  __device__ int row() const { return row_; }
  __device__ const RowPlan& plan() const { return plan_; }
  __device__ int unit() const { return unit_; }
  /// Of the tile, as a position in the row.
  __device__ int begin() const { return tile_; }
  __device__ int unit_end() const { return min((unit_ + 1) * units_.tokens_each, row_tokens()); }
  __device__ bool first_of_row_here() const { return tile_ == first_tile_; }
  __device__ bool first_of_unit() const { return tile_ == unit_ * units_.tokens_each; }
  __device__ bool last_of_unit() const { return tile_ + kTokens >= unit_end(); }
  /// Whether this part has units of the next row.
  __device__ bool goes_on() const {
    return row_ + 1 < range_.end.row || (row_ + 1 == range_.end.row && range_.end.unit > 0);
  }

 private:
  __device__ int row_tokens() const { return plan_.tokens[0] + plan_.tokens[1]; }
  __device__ void begin_row() {
    plan_ = call_.tables.plan.rows[row_];
    units_ = cut_row(row_tokens(), call_.limits);
    tile_ = first_tile_ = unit_ * units_.tokens_each;
  }

  const LayerCall& call_;
  const PartRange range_;
  int row_, unit_, tile_ = 0, first_tile_ = 0;
  RowPlan plan_ = {};
  Units units_ = {};
};

/// Where what a unit comes to belongs.
struct UnitPlace {
  bool split;     // among the slots, because several parts have units of the row
  bool joins;     // otherwise: is added to the units before it
  bool finishes;  // and completes the row's answer
  int partial;    // that keeps what is left: a slot, or the part's own
};

template <class S>
__device__ inline UnitPlace place_of(const LayerCall& call, int row, int unit) {
  const RowPlan plan = call.tables.plan.rows[row];
  const int units = cut_row(plan.tokens[0] + plan.tokens[1], call.limits).count;
  const bool split = plan.first_slot != RowPlan::kWhole;
  return {split, !split && unit > 0, !split && unit + 1 == units,
          split ? call.limits.parts + plan.first_slot + unit : own_part<S>()};
}

/// A token of a tile.
struct Position {
  const int32_t* slot;  // where it stands; NULL: there is no such token
  int scope, in_scope;  // the position in the scope
};

__device__ inline Position position_of(const LayerCall& call, const TileCursor& tile, int token) {
  Position position = {nullptr, 0, tile.begin() + token};
  if (!tile.valid() || position.in_scope >= tile.unit_end()) return position;
  const int window = tile.plan().tokens[0];
  if (position.in_scope >= window) {
    position.scope = 1;
    position.in_scope -= window;
  }
  const Pool& pool = call.layer.scopes[position.scope];
  position.slot = pool.slots + tile.row() * pool.slots_stride + position.in_scope;
  return position;
}

}  // namespace steady::cuda::sm90
