// SPDX-License-Identifier: Apache-2.0
// Lengths in, who does what out: rows are cut into units, and the units dealt to parts in order, so
// that each part gets about the same number of tokens.
#include "cpu/plan.hpp"

#include <algorithm>

#include "core/dealing.hpp"
#include "cpu/faults.hpp"

namespace steady::cpu {
namespace {

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

}  // namespace

void plan(const Shape& shape, const PlanLimits& limits, const Step& step, int kind,
          const PlanTables& tables, FaultLog* faults) {
  const int rows = step.batch * shape.queries;
  tables.header->batch = step.batch;
  tables.header->layer = 0;
  int64_t total = 0;
  for (int row = 0; row < rows; ++row) {
    RowPlan& plan = tables.rows[row];
    for (int scope = 0; scope < kScopes; ++scope) {
      plan.tokens[scope] = clamped_length(shape, step, kind, scope, row, faults);
    }
    plan.first_slot = RowPlan::kWhole;
    total += row_cost(plan);
  }

  Dealer dealer(limits, total / limits.parts, tables);
  WorkPosition begin = {0, 0};
  int32_t row = 0;
  int64_t row_begin = 0;  // cost of all rows before `row`
  for (int part = 0; part < limits.parts; ++part) {
    WorkPosition end = {rows, 0};
    if (part + 1 < limits.parts) {
      const int64_t share_end = total * (part + 1) / limits.parts;
      while (row_begin + row_cost(tables.rows[row]) <= share_end) {
        row_begin += row_cost(tables.rows[row++]);
      }
      end = dealer.deal({row, share_end - row_begin, tables.rows[row]});
    }
    tables.parts[part] = {begin, end};
    begin = end;
  }
  tables.header->split_count = dealer.split_count();
}

}  // namespace steady::cpu
