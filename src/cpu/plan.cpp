// SPDX-License-Identifier: Apache-2.0
// Lengths in, who does what out: rows are cut into units, and the units dealt to parts in order, so
// that each part gets about the same number of tokens.
#include "cpu/plan.hpp"

#include <algorithm>

#include "cpu/faults.hpp"

namespace steady::cpu {
namespace {

/// What a row costs beside its tokens (queries converted, answer written), in tokens.
constexpr int64_t kRowCost = 16;

int32_t clamped_length(const Shape& shape, const Step& step, int kind, int scope, int row,
                       FaultLog* faults) {
  const int32_t width = shape.scope(kind, scope).max_tokens;
  const steady_lengths& lengths = step.scope(kind, scope);
  if (width == 0 || lengths.values == nullptr) return width;
  const bool per_query = lengths.per_query != 0;
  const int request = row / shape.queries, query = row % shape.queries;
  const int32_t length = lengths.values[per_query ? row : request];
  // Each value counts once: not again for a request's other queries, nor the window's for other
  // kinds.
  const bool seen_before = (!per_query && query > 0) || (scope == 0 && kind > 0);
  if (faults != nullptr && !seen_before) {
    const FaultSeen seen = {
        1, -1, scope == 0 ? -1 : kind, scope, request, per_query ? query : -1, -1, length};
    if (length < 0) add(seen, &faults->negative_length);
    if (length > width) add(seen, &faults->long_length);
  }
  return std::clamp(length, 0, width);
}

int64_t cost(const RowPlan& row) { return row.tokens[0] + row.tokens[1] + kRowCost; }

/// Hands out the slots for partials; a row gets all that its units need or stays whole.
class Splitter {
 public:
  Splitter(const PlanLimits& limits, const PlanTables& tables) : limits_(limits), tables_(tables) {}

  bool split(int32_t row) {
    RowPlan& plan = tables_.rows[row];
    if (plan.first_slot != RowPlan::kWhole) return true;
    if (plan.units.count < 2 || used_ + plan.units.count > limits_.slots) return false;
    plan.first_slot = used_;
    used_ += plan.units.count;
    tables_.split_rows[tables_.header->split_count++] = row;
    return true;
  }

 private:
  const PlanLimits& limits_;
  const PlanTables& tables_;
  int32_t used_ = 0;
};

/// The unit border nearest to `offset` tokens into the row, which is split there if that can be.
WorkPosition border_in_row(int32_t row, const RowPlan& plan, int64_t offset, int64_t share,
                           Splitter* splitter) {
  const int64_t row_cost = cost(plan);
  // Close to the row's own border a split costs more than the balance that it brings.
  const bool worth_a_split = std::min(offset, row_cost - offset) > share / 16;
  const auto unit =
      static_cast<int32_t>((offset + plan.units.tokens_each / 2) / plan.units.tokens_each);
  if (worth_a_split && unit > 0 && unit < plan.units.count && splitter->split(row))
    return {row, unit};
  return {offset * 2 < row_cost ? row : row + 1, 0};
}

bool before(const WorkPosition& a, const WorkPosition& b) {
  return a.row < b.row || (a.row == b.row && a.unit < b.unit);
}

}  // namespace

void plan(const Shape& shape, const PlanLimits& limits, const Step& step, int kind,
          const PlanTables& tables, FaultLog* faults) {
  const int rows = step.batch * shape.queries;
  tables.header->batch = step.batch;
  tables.header->split_count = 0;
  tables.header->layer = 0;
  int64_t total = 0;
  for (int row = 0; row < rows; ++row) {
    RowPlan& plan = tables.rows[row];
    for (int scope = 0; scope < kScopes; ++scope) {
      plan.tokens[scope] = clamped_length(shape, step, kind, scope, row, faults);
    }
    plan.units = cut_row(plan.tokens[0] + plan.tokens[1], limits);
    plan.first_slot = RowPlan::kWhole;
    total += cost(plan);
  }

  Splitter splitter(limits, tables);
  WorkPosition begin = {0, 0};
  int32_t row = 0;
  int64_t row_begin = 0;  // cost of all rows before `row`
  for (int part = 0; part < limits.parts; ++part) {
    WorkPosition end = {rows, 0};
    if (part + 1 < limits.parts) {
      const int64_t border = total * (part + 1) / limits.parts;
      while (row_begin + cost(tables.rows[row]) <= border) row_begin += cost(tables.rows[row++]);
      end =
          border_in_row(row, tables.rows[row], border - row_begin, total / limits.parts, &splitter);
      if (before(end, begin)) end = begin;
    }
    tables.parts[part] = {begin, end};
    begin = end;
  }
}

}  // namespace steady::cpu
