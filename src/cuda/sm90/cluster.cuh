// SPDX-License-Identifier: Apache-2.0
// What clusters of blocks that share values have in common: the tiles of a part one after the
// other, where their tokens' slots stand, and how a role begins.
#pragma once

#include "core/dealing.hpp"
#include "cuda/ptx/cluster.cuh"
#include "cuda/sm90/common.cuh"

namespace steady::cuda::sm90 {

/// Of two blocks' shares of scores.
__device__ inline float4 plus(const float4& a, const float4& b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}
__device__ inline float2 plus(const float2& a, const float2& b) { return {a.x + b.x, a.y + b.y}; }

/// All of this warp is done with what the barrier guards.
__device__ inline void hand_over(uint64_t* barrier) {
  __syncwarp();
  if (ptx::thread_number() % 32 == 0) ptx::arrive(barrier);
}

/// Goes through the tiles of a part, row after row, unit after unit. Every row has a tile, if an
/// empty one.
class TileCursor {
 public:
  __device__ explicit TileCursor(const Call& call) : call_(call) {}

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

  /// To the unit's next tile. There must be one. For who has no register to count a unit's tiles.
  __device__ void advance_in_unit() { tile_ += kTokens; }

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
    plan_ = read_plan(&call_.tables.plan.rows[row_]);
    units_ = cut_row(row_tokens(), call_.limits);
    tile_ = first_tile_ = unit_ * units_.tokens_each;
  }

  const Call& call_;
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

__device__ inline Position position_of(const Call& call, const TileCursor& tile, int token) {
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

/// Does the part of this block's cluster, for which the role waits for earlier grids when it knows
/// all that can be known before. False without a plan for this batch. When all roles have done
/// theirs, all that other blocks send here has come: then the block may go.
template <int kCluster, class Role>
__device__ bool do_part(const Call& call, Role role) {
  touch_parameters(call);
  const PartRange part = read_plan(&call.tables.plan.parts[ptx::block_number() / kCluster]);
  const bool has_plan = planned_early(call);
  // No other block of the cluster goes on without tiles, either.
  if (has_plan && before(part.begin, part.end)) {
    role.part(part);
  } else {
    ptx::wait_for_earlier_grids();
  }
  return has_plan;
}

}  // namespace steady::cuda::sm90
