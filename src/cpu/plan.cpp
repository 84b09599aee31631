// SPDX-License-Identifier: Apache-2.0
// Lengths in, who does what out: rows are cut into units, and the units dealt to parts in order, so
// that each part gets about the same number of tokens, or a row of its own.
#include "cpu/plan.hpp"

#include "core/dealing.hpp"
#include "core/faults.hpp"

namespace steady::cpu {
namespace {

void log_bad(const GivenLength& length, FaultLog* faults) {
  if (length.seen.value < 0) add(length.seen, &faults->negative_length);
  if (length.seen.value > length.width) add(length.seen, &faults->long_length);
}

/// Gives each row of several units its slots.
void split_all(int rows, const PlanLimits& limits, const PlanTables& tables) {
  RowsOfSeveralUnits before;
  for (int row = 0; row < rows; ++row) {
    RowPlan& plan = tables.rows[row];
    const int32_t units = cut_row(plan.tokens[0] + plan.tokens[1], limits).count;
    if (units == 1) continue;
    plan.first_slot = before.units;
    tables.split_rows[before.rows] = row;
    before.add(units);
  }
}

}  // namespace

void plan(const Shape& shape, const PlanLimits& limits, const Step& step, int kind,
          const PlanTables& tables, FaultLog* faults) {
  const int rows = step.batch * shape.queries;
  tables.header->batch = step.batch;
  tables.header->layer = 0;
  int64_t total = 0;
  RowsOfSeveralUnits several;
  for (int row = 0; row < rows; ++row) {
    RowPlan& plan = tables.rows[row];
    for (int scope = 0; scope < kScopes; ++scope) {
      const GivenLength length = read_length(shape, step, kind, scope, row);
      plan.tokens[scope] = length.clamped();
      if (faults != nullptr) log_bad(length, faults);
    }
    plan.first_slot = RowPlan::kWhole;
    total += row_cost(plan);
    several.add(cut_row(plan.tokens[0] + plan.tokens[1], limits).count);
  }
  if (each_has_a_row(limits, rows, several)) {
    for (int part = 0; part < limits.parts; ++part) tables.parts[part] = row_of_part(part, rows);
    tables.header->split_count = 0;
    return;
  }
  const bool all_are_split = several.are_split(limits);
  if (all_are_split) split_all(rows, limits, tables);

  const int64_t share = total / limits.parts;
  Dealer dealer(limits, tables, several);
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
      end = dealer.deal(
          consider(limits, share, all_are_split, {row, share_end - row_begin, tables.rows[row]}));
    }
    tables.parts[part] = {begin, end};
    begin = end;
  }
  tables.header->split_count = dealer.split_count();
}

}  // namespace steady::cpu
