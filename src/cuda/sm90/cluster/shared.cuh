// SPDX-License-Identifier: Apache-2.0
// What the roles of a block share: queries, buffers of tokens and of scores, and the barriers that
// hand them over.
#pragma once

#include "cuda/ptx/cluster.cuh"
#include "cuda/sm90/sums.cuh"
#include "cuda/sm90/weights.cuh"

namespace steady::cuda::sm90::cluster {

inline constexpr int kProducerWarps = 2 * kWarps;
/// Of a tile, brought by one warp.
inline constexpr int kWarpTokens = kTokens / kProducerWarps;

/// How a row is shared: `kCluster` blocks of a cluster have an equal share of each vector's values,
/// and each does all tokens for the same heads, `kHeads` at most.
template <int kHeads_, int kCluster_>
struct Share : Rows<kHeads_> {
  static constexpr int kHeads = kHeads_, kCluster = kCluster_;
  static constexpr int kOwnBlocks = kBlocks / kCluster;
  static constexpr int kOwnDims = kOwnBlocks * kBlockDims;
  static_assert(kHeads == 32 || kCluster == 2);
  // Tokens are worth more room than a second buffer of queries, which only a row's beginning needs.
  static constexpr int kQueryBuffers = kHeads == 64 ? 1 : 2;
  static constexpr uint32_t kTokenBuffers = kCluster == 2 ? 4 : 6, kScoreBuffers = 2;
};

/// All of this warp is done with what the barrier guards.
__device__ inline void hand_over(uint64_t* barrier) {
  __syncwarp();
  if (ptx::thread_number() % 32 == 0) ptx::arrive(barrier);
}

/// The same to the barrier of every block of the cluster.
template <class S>
__device__ inline void hand_over_to_cluster(uint64_t* barrier) {
  __syncwarp();
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (lane < S::kCluster) ptx::arrive(ptx::in_block(barrier, lane));
}

template <class S>
struct Shared {
  Block q[S::kQueryBuffers][S::kOwnBlocks];  // of a row and, if there is room, the next one
  Block tokens[S::kTokenBuffers][S::kOwnBlocks];
  /// All blocks' shares of a tile's scores, by the difference in rank, as the lanes of a scorer and
  /// of a weigher have them.
  float4 scores[S::kScoreBuffers][S::kCluster][S::kHalves][kLaneScores / 4][kGroupThreads];
  alignas(1024) Ones ones;
  /// Of each producer warp: slots of the batch to be looked up next, scales of the tile in
  /// registers.
  int32_t slots[kProducerWarps][32];
  uint32_t scales[kProducerWarps][kWarpTokens];
  SoftmaxState row_so_far[S::kHeads];  // the weigher's own
  uint64_t named[S::kTokenBuffers];    // a bit for each token that a slot names
  // From producers to scorer and weigher and back.
  uint64_t tokens_full[S::kTokenBuffers], tokens_empty[S::kTokenBuffers];
  // From each warp of the cluster's scorers to those of the weighers with its heads, and back.
  uint64_t scores_full[kWarps][S::kScoreBuffers], scores_empty[kWarps][S::kScoreBuffers];
};

/// Barriers that warpgroups have among themselves; 0 is the block's.
struct NamedBarriers {
  static constexpr int kScorer = 1;
};

/// Goes through the tiles of a part, row after row, unit after unit. Every row has a tile, if an
/// empty one.
class TileCursor {
 public:
  __device__ explicit TileCursor(const LayerCall& call) : call_(call) {}

  __device__ void start(const PartRange& range) {
    end_ = range.end;
    row_ = range.begin.row;
    unit_ = range.begin.unit;
    if (valid()) begin_row();
  }

  __device__ bool valid() const { return before({row_, unit_}, end_); }
  /// By so many tiles of the unit.
  __device__ void advance(int tiles = 1) {
    tile_ += tiles * kTokens;
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
  /// Of the tile, as a position in the row.
  __device__ int begin() const { return tile_; }
  __device__ int unit_end() const { return min((unit_ + 1) * units_.tokens_each, row_tokens()); }
  /// Of the unit, from this one on.
  __device__ int tiles() const { return tiles_between(tile_, unit_end()); }
  __device__ bool first_of_row_here() const { return tile_ == first_tile_; }
  __device__ bool first_of_unit() const { return tile_ == unit_ * units_.tokens_each; }
  __device__ bool last_of_unit() const { return tile_ + kTokens >= unit_end(); }
  __device__ UnitPlace place() const { return place_of(plan_, units_.count, unit_); }
  /// Whether this part has units of the next row.
  __device__ bool goes_on() const {
    return row_ + 1 < end_.row || (row_ + 1 == end_.row && end_.unit > 0);
  }

 private:
  __device__ int row_tokens() const { return plan_.tokens[0] + plan_.tokens[1]; }
  __device__ void begin_row() {
    plan_ = call_.tables.plan.rows[row_];
    units_ = cut_row(row_tokens(), call_.limits);
    tile_ = first_tile_ = unit_ * units_.tokens_each;
  }

  const LayerCall& call_;
  WorkPosition end_;
  int row_, unit_, tile_ = 0, first_tile_ = 0;
  RowPlan plan_;
  Units units_;
};

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

}  // namespace steady::cuda::sm90::cluster
