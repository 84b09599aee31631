// SPDX-License-Identifier: Apache-2.0
// A plan in, the units of a part out, one after the other.
#pragma once

#include "cuda/sm90/shared.cuh"

namespace steady::cuda::sm90 {

/// Goes through a part, row after row, unit after unit, by a few tiles at a time. Every row has a
/// tile, if an empty one.
class UnitCursor {
 public:
  __device__ UnitCursor(const LayerCall& call, const PartRange& range)
      : call_(call), range_(range), row_(range.begin.row), unit_(range.begin.unit) {
    if (!valid()) return;
    next_plan_ = call_.tables.plan.rows[row_];
    begin_row();
  }

  __device__ bool valid() const {
    return row_ < range_.end.row || (row_ == range_.end.row && unit_ < range_.end.unit);
  }
  /// By no more tiles than are left of the unit.
  __device__ void advance(int tiles) {
    done_ += tiles;
    if (done_ < tiles_) return;
    ++unit_;
    if (unit_ < units_.count) {
      begin_unit();
    } else {
      ++row_;
      unit_ = 0;
      if (valid()) begin_row();
    }
  }

  __device__ int row() const { return row_; }
  /// Tokens of the row's window.
  __device__ int window() const { return plan_.tokens[0]; }
  /// Tiles of the unit that are behind this place, and ahead of it.
  __device__ int tiles_done() const { return done_; }
  __device__ int tiles_left() const { return tiles_ - done_; }
  /// Positions in the row: of the next tile, and of the unit's end.
  __device__ int begin() const { return unit_ * units_.tokens_each + done_ * kTokens; }
  __device__ int end() const { return min((unit_ + 1) * units_.tokens_each, row_tokens()); }
  __device__ UnitPlace place(int own_partial) const {
    const bool split = plan_.first_slot != RowPlan::kWhole;
    return {split, !split && unit_ > 0, !split && unit_ + 1 == units_.count,
            split ? call_.limits.parts + plan_.first_slot + unit_ : own_partial};
  }

 private:
  /// Whether this part has units of the next row.
  __device__ bool goes_on() const {
    return row_ + 1 < range_.end.row || (row_ + 1 == range_.end.row && range_.end.unit > 0);
  }
  __device__ int row_tokens() const { return plan_.tokens[0] + plan_.tokens[1]; }
  __device__ void begin_row() {
    plan_ = next_plan_;
    if (goes_on()) next_plan_ = call_.tables.plan.rows[row_ + 1];  // long before it is needed
    units_ = cut_row(row_tokens(), call_.limits);
    begin_unit();
  }
  __device__ void begin_unit() {
    done_ = 0;
    tiles_ = max(1, (end() - unit_ * units_.tokens_each + kTokens - 1) / kTokens);
  }

  const LayerCall& call_;
  const PartRange range_;
  int row_, unit_, tiles_ = 0, done_ = 0;
  RowPlan plan_ = {}, next_plan_ = {};
  Units units_ = {};
};

}  // namespace steady::cuda::sm90
