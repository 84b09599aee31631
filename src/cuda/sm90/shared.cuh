// SPDX-License-Identifier: Apache-2.0
// What the roles of a block share: one buffer of queries, two of tokens, two of weights, and the
// barriers that hand them over.
#pragma once

#include <cstdint>

#include "core/work.hpp"
#include "cuda/ptx/barrier.cuh"
#include "cuda/row_state.cuh"

namespace steady::cuda::sm90 {

inline constexpr int kTokens = 64;  // of a tile: the rows of a product
inline constexpr int kBuffers = 2;
/// Vectors lie in blocks of 64 values, so that a row of a block is 128 bytes.
inline constexpr int kBlockDims = 64, kBlocks = kHeadDim / kBlockDims;
inline constexpr int kGroupThreads = 128;          // a warpgroup
inline constexpr int kWarps = kGroupThreads / 32;  // of a warpgroup
/// Of warpgroups, four in all: one scores, and with few heads, when products are short, one weighs
/// and two bring tokens.
template <int kHeads>
inline constexpr int kWeigherGroups = kHeads <= 32 ? 1 : 2;
template <int kHeads>
inline constexpr int kProducerGroups = 3 - kWeigherGroups<kHeads>;
inline constexpr int kThreads = 4 * kGroupThreads;

/// 16 bytes of bf16.
using Chunk = uint4;
inline constexpr int kChunkDims = 8, kBlockChunks = kBlockDims / kChunkDims;

/// `kRows` vectors' part in one block of values: rows of eight chunks, swizzled as products want
/// it.
template <int kRows>
struct alignas(1024) Block {
  Chunk rows[kRows][kBlockChunks];

  __device__ Chunk* at(int row, int chunk) { return &rows[row][chunk ^ row % kBlockChunks]; }
};

/// What the scorer tells the weighers of a tile.
struct Order {
  bool first_of_unit, last_of_unit;
  // If it is the last tile of a unit: where the sums go.
  bool joins;     // the row so far, which lies in this part's own partial
  bool finishes;  // the row's answer
  bool last_of_row_here, last_of_part;
  int32_t partial;  // otherwise, this one
};

template <int kHeads>
struct Shared {
  Block<kHeads> q[kBlocks];  // later the row's answer
  Block<kTokens> tokens[kBuffers][kBlocks];
  Block<kHeads> weights[kBuffers];  // heads by tokens
  float of_warp[kWarps][kHeads];    // of each warp's sixteen tokens, for one thread a head to join
  float rounded_sum[2][kHeads];     // of a unit's weights, of half the tokens of each tile each
  // Read in pairs: what weights are relative to, what the sums so far are worth after references
  // moved, what brings a unit's sums to its exact weight, and what finishes the row.
  alignas(float2) float reference[kHeads];
  alignas(float2) float old_weight[kBuffers][kHeads];
  alignas(float2) float factor[kHeads];
  alignas(float2) float out_weight[kHeads];
  Merged merged[kHeads];
  bool named[kBuffers][kTokens];  // whether a slot named the token
  bool moved[kBuffers];           // whether any reference did
  Order order[kBuffers];          // what the weighers are to do with the weights
  // From producers to scorer and weighers and back, and from the scorer to weighers and back.
  uint64_t tokens_full[kBuffers], tokens_empty[kBuffers];
  uint64_t weights_full[kBuffers], weights_empty[kBuffers];
};

/// Barriers that warpgroups have among themselves; 0 is the block's.
struct NamedBarriers {
  static constexpr int kScorerAndWeighers = 1, kScorer = 2, kWeighers = 3;
};

template <int kHeads>
__device__ inline void sync_scorer_and_weighers() {
  ptx::sync(NamedBarriers::kScorerAndWeighers, (1 + kWeigherGroups<kHeads>)*kGroupThreads);
}

/// The heads of this block.
template <int kHeads>
__device__ inline int first_head() {
  return static_cast<int>(blockIdx.y) * kHeads;
}
template <int kHeads>
__device__ inline int heads_here(const LayerCall& call) {
  return min(kHeads, call.heads - first_head<kHeads>());
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
  __device__ int unit_count() const { return units_.count; }
  /// Of the tile, as a position in the row.
  __device__ int begin() const { return tile_; }
  __device__ int unit_end() const { return min((unit_ + 1) * units_.tokens_each, row_tokens()); }
  __device__ bool first_of_row_here() const { return tile_ == first_tile_; }
  __device__ bool first_of_unit() const { return tile_ == unit_ * units_.tokens_each; }
  __device__ bool last_of_unit() const { return tile_ + kTokens >= unit_end(); }
  __device__ bool last_of_part() const {
    return last_of_unit() &&
           (row_ == range_.end.row
                ? unit_ + 1 == range_.end.unit
                : row_ + 1 == range_.end.row && range_.end.unit == 0 && unit_ + 1 == units_.count);
  }
  /// Whether this part has no later unit of the row.
  __device__ bool last_of_row_here() const {
    const int end = row_ == range_.end.row ? range_.end.unit : units_.count;
    return last_of_unit() && unit_ + 1 == end;
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

/// A token of a tile.
struct Position {
  int32_t slot;         // kHole: none
  int scope, in_scope;  // the position in the scope
  static constexpr int32_t kHole = -1;
};

__device__ inline Position position_of(const LayerCall& call, const TileCursor& tile, int token) {
  Position position = {Position::kHole, 0, tile.begin() + token};
  if (!tile.valid() || position.in_scope >= tile.unit_end()) return position;
  const int window = tile.plan().tokens[0];
  if (position.in_scope >= window) {
    position.scope = 1;
    position.in_scope -= window;
  }
  const Pool& pool = call.layer.scopes[position.scope];
  position.slot = pool.slots[tile.row() * pool.slots_stride + position.in_scope];
  return position;
}

}  // namespace steady::cuda::sm90
