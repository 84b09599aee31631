// SPDX-License-Identifier: Apache-2.0
// The rules of plan, for host and device: what a length means, where a part's share ends, and which
// rows may be split.
#pragma once

#include <cstdint>

#include "core/shape.hpp"
#include "core/work.hpp"
#include "numeric/host_device.hpp"

namespace steady {

/// A row's length in one scope, as the step has it.
struct GivenLength {
  int32_t width;
  FaultSeen seen;  ///< its place and value; count 0 where another row of this plan or kind tells it

  STEADY_HOST_DEVICE int32_t clamped() const {
    return seen.value < 0 ? 0 : seen.value > width ? width : seen.value;
  }
};

STEADY_HOST_DEVICE inline GivenLength read_length(const Shape& shape, const Step& step, int kind,
                                                  int scope, int row) {
  const int32_t width = shape.scope(kind, scope).max_tokens;
  const steady_lengths& lengths = step.scope(kind, scope);
  if (width == 0 || lengths.values == nullptr) return {width, {0, 0, 0, 0, 0, 0, 0, width}};
  const bool per_query = lengths.per_query != 0;
  const int request = row / shape.queries, query = row % shape.queries;
  // A request's length serves all its queries, the window's all kinds; each value counts once.
  const bool tells = (per_query || query == 0) && (scope == 1 || kind == 0);
  return {width,
          {tells ? 1 : 0, -1, scope == 0 ? -1 : kind, scope, request, per_query ? query : -1, -1,
           lengths.values[per_query ? row : request]}};
}

/// What a row costs beside its tokens (queries converted, answer written), in tokens.
inline constexpr int64_t kRowCost = 16;

STEADY_HOST_DEVICE inline int64_t row_cost(const RowPlan& row) {
  return row.tokens[0] + row.tokens[1] + kRowCost;
}

/// Where an even share would end: `offset` tokens into row `row`.
struct Border {
  int32_t row;
  int64_t offset;
  RowPlan plan;
};

STEADY_HOST_DEVICE inline bool before(const WorkPosition& a, const WorkPosition& b) {
  return a.row < b.row || (a.row == b.row && a.unit < b.unit);
}

/// The row border that is closest.
STEADY_HOST_DEVICE inline WorkPosition nearest_row(const Border& border) {
  const int64_t rest = row_cost(border.plan) - border.offset;
  return {border.offset < rest ? border.row : border.row + 1, 0};
}

/// Where a part may end.
struct Candidate {
  WorkPosition at_row;  ///< the closest border of rows
  WorkPosition inside;  ///< where a unit begins that is closer
  int32_t units;        ///< of the row that would be split there; 0: it is not worth it
};

/// How many rows have several units, and how many units those have: each could leave a partial.
struct RowsOfSeveralUnits {
  int32_t units = 0, rows = 0;

  STEADY_HOST_DEVICE void add(int32_t row_units) {
    if (row_units == 1) return;
    units += row_units;
    ++rows;
  }
  /// Whether all of them are to be split.
  STEADY_HOST_DEVICE bool are_split(const PlanLimits& limits) const {
    return units > 0 && units <= limits.all_slots && rows < limits.parts;
  }
};

/// Whether no row can be split.
STEADY_HOST_DEVICE inline bool stay_whole(const PlanLimits& limits,
                                          const RowsOfSeveralUnits& several) {
  return several.rows == 0 || (limits.slots == 0 && !several.are_split(limits));
}

/// Whether rows stay whole and are no more than parts. Then a part has a row, if there is one.
/// Shares that cost the same would give two short rows to one part and leave another without.
STEADY_HOST_DEVICE inline bool each_has_a_row(const PlanLimits& limits, int rows,
                                              const RowsOfSeveralUnits& several) {
  return rows <= limits.parts && stay_whole(limits, several);
}
STEADY_HOST_DEVICE inline PartRange row_of_part(int part, int rows) {
  const int row = part < rows ? part : rows;
  return {{row, 0}, {row < rows ? row + 1 : rows, 0}};
}

/// `share`: what an even share costs.
STEADY_HOST_DEVICE inline Candidate consider(const PlanLimits& limits, int64_t share,
                                             bool all_are_split, const Border& border) {
  const Units units = cut_row(border.plan.tokens[0] + border.plan.tokens[1], limits);
  const int64_t rest = row_cost(border.plan) - border.offset;
  const int64_t to_row_border = border.offset < rest ? border.offset : rest;
  const int32_t unit =
      static_cast<int32_t>((border.offset + units.tokens_each / 2) / units.tokens_each);
  // Close to the row's own border a split costs more than the balance that it brings.
  const bool worth_a_split =
      (all_are_split || to_row_border > share / 16) && unit > 0 && unit < units.count;
  return {nearest_row(border), {border.row, unit}, worth_a_split ? units.count : 0};
}

/// Moves borders to where units begin, and hands out the slots for partials. Takes the candidates
/// in order.
class Dealer {
 public:
  STEADY_HOST_DEVICE Dealer(const PlanLimits& limits, const PlanTables& tables,
                            const RowsOfSeveralUnits& several)
      : limits_(limits),
        tables_(tables),
        all_are_split_(several.are_split(limits)),
        split_count_(all_are_split_ ? several.rows : 0) {}

  /// The end of the next part. Never before the end of the part that came last.
  STEADY_HOST_DEVICE WorkPosition deal(const Candidate& candidate) {
    const bool splits = candidate.units > 0 && split(candidate.inside.row, candidate.units);
    const WorkPosition end = splits ? candidate.inside : candidate.at_row;
    if (before(last_end_, end)) last_end_ = end;
    return last_end_;
  }

  STEADY_HOST_DEVICE int32_t split_count() const { return split_count_; }

 private:
  /// A row gets slots for all of its units or stays whole.
  STEADY_HOST_DEVICE bool split(int32_t row, int32_t units) {
    if (all_are_split_ || row == last_split_) return true;
    if (used_slots_ + units > limits_.slots) return false;
    tables_.rows[row].first_slot = used_slots_;
    tables_.split_rows[split_count_++] = row;
    used_slots_ += units;
    last_split_ = row;
    return true;
  }

  const PlanLimits limits_;
  const PlanTables tables_;
  const bool all_are_split_;  // and have their slots
  WorkPosition last_end_ = {0, 0};
  int32_t split_count_, last_split_ = -1, used_slots_ = 0;
};

}  // namespace steady
