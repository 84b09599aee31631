// SPDX-License-Identifier: Apache-2.0
// A plan and a layer in, the layer's answer out: deals the units to workers, who attend and merge.
#include <algorithm>
#include <limits>

#include "cpu/engine.hpp"
#include "cpu/plan.hpp"

namespace steady::cpu {

void CpuEngine::run_plan(void* workspace, const Step& step) const {
  FaultLog* faults = memory_.faults(workspace);
  std::fill_n(faults, 1 + limits_.parts, FaultLog{});
  for (int kind = 0; kind < shape_.kinds; ++kind) {
    const PlanTables tables = memory_.plan(workspace, kind);
    cpu::plan(shape_, limits_, step, kind, tables, options_.checked ? faults : nullptr);
    tables.header->seal = seal_;
  }
}

Status CpuEngine::run_decode(void* workspace, const Layer& layer) const {
  const PlanTables plan = memory_.plan(workspace, layer.kind);
  if (plan.header->seal != seal_) {
    return {STEADY_NOT_PLANNED,
            "the workspace holds no plan of this engine; call steady_plan before steady_decode"};
  }
  if (plan.header->batch != layer.batch) {
    return {STEADY_NOT_PLANNED,
            join("steady_step.batch is ", layer.batch, ", but the workspace's plan was made for ",
                 plan.header->batch, "; plan and decode one step with one batch")};
  }
  threads_.run(limits_.parts,
               [&](size_t part) { attend_part(workspace, plan, layer, static_cast<int>(part)); });
  // Heads are merged apart from each other, so that a single long row keeps all workers busy.
  threads_.run(static_cast<size_t>(plan.header->split_count) * shape_.heads, [&](size_t task) {
    const int row = plan.split_rows[task / shape_.heads];
    merge_row(workspace, plan.rows[row], layer, row, static_cast<int>(task % shape_.heads));
  });
  // Slots of all kinds are told apart by the number of decode calls before theirs.
  int32_t& layer_idx = memory_.plan(workspace, 0).header->layer;
  if (layer_idx < std::numeric_limits<int32_t>::max()) ++layer_idx;
  return {};
}

void CpuEngine::attend_part(void* workspace, const PlanTables& plan, const Layer& layer,
                            int part) const {
  const PartMemory mine = memory_.part(workspace, part);
  const auto [begin, end] = plan.parts[part];
  const int32_t layer_idx = memory_.plan(workspace, 0).header->layer;
  for (int32_t row = begin.row; row < end.row + (end.unit > 0 ? 1 : 0); ++row) {
    const RowPlan& row_plan = plan.rows[row];
    const bool whole = row_plan.first_slot == RowPlan::kWhole;
    const int32_t tokens = row_plan.tokens[0] + row_plan.tokens[1];
    const Units units = cut_row(tokens, limits_);
    const int32_t first_unit = row == begin.row ? begin.unit : 0;
    const int32_t end_unit = row == end.row ? end.unit : units.count;
    for (int32_t unit = first_unit; unit < end_unit; ++unit) {
      const int32_t unit_begin = unit * units.tokens_each;
      const int32_t unit_end = std::min(unit_begin + units.tokens_each, tokens);
      const Partial partial = !whole     ? memory_.slot(workspace, row_plan.first_slot + unit)
                              : unit > 0 ? mine.unit
                                         : mine.row;
      kernels_.attend(shape_, layer, row,
                      TokenCursor(shape_, layer, layer_idx, row, row_plan, unit_begin, unit_end,
                                  options_.checked ? mine.faults : nullptr),
                      partial, mine.scratch);
      for (int head = 0; whole && unit > 0 && head < shape_.heads; ++head) {
        kernels_.merge(mine.row, mine.unit, head);
      }
    }
    for (int head = 0; whole && head < shape_.heads; ++head) {
      kernels_.finish(shape_, layer, row, head, mine.row);
    }
  }
}

/// The same merges in the same order as attend_part's, and so the same bits, whoever did the units.
void CpuEngine::merge_row(void* workspace, const RowPlan& row_plan, const Layer& layer, int row,
                          int head) const {
  const Units units = cut_row(row_plan.tokens[0] + row_plan.tokens[1], limits_);
  const Partial first = memory_.slot(workspace, row_plan.first_slot);
  for (int32_t unit = 1; unit < units.count; ++unit) {
    kernels_.merge(first, memory_.slot(workspace, row_plan.first_slot + unit), head);
  }
  kernels_.finish(shape_, layer, row, head, first);
}

}  // namespace steady::cpu
