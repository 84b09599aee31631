// SPDX-License-Identifier: Apache-2.0
// Lengths on the device in, who does what out, on the device: the tables that the CPU's plan would
// write, to the bit. One block a kind.
#include "cuda/plan.hpp"

#include <cub/block/block_scan.cuh>
#include <cuda/std/functional>

#include "core/dealing.hpp"
#include "cuda/faults.cuh"

namespace steady::cuda {
namespace {

constexpr int kThreads = 1024;

/// What is wrong with the lengths of one kind into the report.
__device__ void log_lengths(const PlanCall& call, int kind) {
  FaultLog log = {};
  for (int row = static_cast<int>(threadIdx.x); row < call.step.batch * call.shape.queries;
       row += kThreads) {
    for (int scope = 0; scope < kScopes; ++scope) {
      const GivenLength length = read_length(call.shape, call.step, kind, scope, row);
      if (length.seen.value < 0) add(length.seen, &log.negative_length);
      if (length.seen.value > length.width) add(length.seen, &log.long_length);
    }
  }
  SharedFaultLog* const faults = call.tables[kind].faults;
  add<kThreads>(log.negative_length, &faults->negative_length);
  add<kThreads>(log.long_length, &faults->long_length);
}

/// Of all rows.
struct RowSums {
  int64_t cost;
  RowsOfSeveralUnits several;
};
__device__ RowSums operator+(const RowSums& a, const RowSums& b) {
  return {a.cost + b.cost, {a.several.units + b.several.units, a.several.rows + b.several.rows}};
}

/// Writes each row's plan, as if all rows of several units were split, and the cost of all rows
/// before it; returns the sums of all.
__device__ RowSums plan_rows(const PlanCall& call, int kind) {
  using Scan = cub::BlockScan<RowSums, kThreads>;
  __shared__ typename Scan::TempStorage scan;
  const Tables& tables = call.tables[kind];
  const PlanLimits& limits = call.limits[kind];
  const int rows = call.step.batch * call.shape.queries;
  RowSums before_these = {};
  for (int first = 0; first < rows; first += kThreads) {
    const int row = first + static_cast<int>(threadIdx.x);
    RowPlan plan = {{0, 0}, RowPlan::kWhole};
    RowSums own = {}, before = {}, sum = {};
    if (row < rows) {
      for (int scope = 0; scope < kScopes; ++scope) {
        plan.tokens[scope] = read_length(call.shape, call.step, kind, scope, row).clamped();
      }
      own.cost = row_cost(plan);
      own.several.add(cut_row(plan.tokens[0] + plan.tokens[1], limits).count);
    }
    Scan(scan).ExclusiveScan(own, before, RowSums{}, ::cuda::std::plus<>(), sum);
    before = before_these + before;
    if (row < rows) {
      if (own.several.rows > 0) {
        plan.first_slot = before.several.units;
        if (before.several.rows < limits.parts) tables.plan.split_rows[before.several.rows] = row;
      }
      tables.plan.rows[row] = plan;
      tables.row_begins[row] = before.cost;
    }
    before_these = before_these + sum;
    __syncthreads();
  }
  if (!before_these.several.are_split(limits)) {
    for (int row = static_cast<int>(threadIdx.x); row < rows; row += kThreads)
      tables.plan.rows[row].first_slot = RowPlan::kWhole;
  }
  return before_these;
}

/// The last row that begins at or before `cost`.
__device__ int row_at(const int64_t* row_begins, int rows, int64_t cost) {
  int low = 0, high = rows - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (row_begins[middle] <= cost)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

/// Where no row may be split, each part ends at a row border, whatever the others do.
__device__ void deal_whole_rows(const Candidate* candidates, int part, int parts, int rows,
                                const PlanTables& plan) {
  const WorkPosition begin = part > 0 ? candidates[part - 1].at_row : WorkPosition{0, 0};
  const WorkPosition end = part + 1 < parts ? candidates[part].at_row : WorkPosition{rows, 0};
  plan.parts[part] = {begin, end};
}

/// Slots go to split rows in order; that is one thread's work, with all it needs in shared memory.
/// Returns how many rows are split.
__device__ int deal_units(const PlanLimits& limits, const Candidate* candidates, int rows,
                          const PlanTables& plan, const RowsOfSeveralUnits& several) {
  Dealer dealer(limits, plan, several);
  WorkPosition begin = {0, 0};
  for (int p = 0; p < limits.parts; ++p) {
    const WorkPosition end =
        p + 1 < limits.parts ? dealer.deal(candidates[p]) : WorkPosition{rows, 0};
    plan.parts[p] = {begin, end};
    begin = end;
  }
  return dealer.split_count();
}

__global__ void __launch_bounds__(kThreads) plan_kernel(const __grid_constant__ PlanCall call) {
  extern __shared__ Candidate candidates[];  // [parts - 1]
  const int kind = static_cast<int>(blockIdx.x), part = static_cast<int>(threadIdx.x);
  const PlanLimits& limits = call.limits[kind];
  const int rows = call.step.batch * call.shape.queries, parts = limits.parts;
  const Tables& tables = call.tables[kind];
  if (tables.faults != nullptr) log_lengths(call, kind);
  const RowSums sums = plan_rows(call, kind);
  const int64_t total = sums.cost;
  const bool all_are_split = sums.several.are_split(limits);
  __syncthreads();
  const bool each_a_row = each_has_a_row(limits, rows, sums.several);
  if (part + 1 < parts && !each_a_row) {
    const int64_t share_end = total * (part + 1) / parts;
    const int row = row_at(tables.row_begins, rows, share_end);
    candidates[part] = consider(limits, total / parts, all_are_split,
                                {row, share_end - tables.row_begins[row], tables.plan.rows[row]});
  }
  __syncthreads();
  PlanHeader header = {call.seal, call.step.batch, 0, 0};
  if (each_a_row) {
    if (part < parts) tables.plan.parts[part] = row_of_part(part, rows);
  } else if (stay_whole(limits, sums.several)) {
    if (part < parts) deal_whole_rows(candidates, part, parts, rows, tables.plan);
  } else if (part == 0) {
    header.split_count = deal_units(limits, candidates, rows, tables.plan, sums.several);
  }
  if (part == 0) {
    *tables.plan.header = header;
    if (kind == 0) *tables.layer = 0;
  }
  // A grid that begins when this one has ended may read all this without waiting, which is why plan
  // must not let the next grid begin before.
  __threadfence();
}

}  // namespace

cudaError_t launch_plan(const PlanCall& call, cudaStream_t stream) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(call.shape.kinds);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = sizeof(Candidate) * call.limits[0].parts;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, plan_kernel, call);
}

}  // namespace steady::cuda
