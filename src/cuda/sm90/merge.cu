// SPDX-License-Identifier: Apache-2.0
// Partials of split rows in, their answers out: one block a head, the units in their order.
#include <algorithm>

#include "cuda/ptx/grid.cuh"
#include "cuda/row_state.cuh"
#include "cuda/sm90/attend.hpp"
#include "cuda/sm90/common.cuh"

namespace steady::cuda::sm90 {
namespace {

constexpr int kThreadValues = 4, kMergeThreads = kHeadDim / kThreadValues;

/// Which of the batch's rows a block looks at.
enum class Look { kAll, kListed };

/// Thread's four values of a head of one row.
__device__ void merge_row(const LayerCall& call, const RowPlan& plan, int row, int head) {
  const int thread = static_cast<int>(threadIdx.x);
  const int units = cut_row(plan.tokens[0] + plan.tokens[1], call.limits).count;
  const auto values = [&](int unit) {
    return reinterpret_cast<const float4*>(partial_out(call, plan.first_slot + unit, head))[thread];
  };
  SoftmaxState state = partial_states(call, plan.first_slot)[head];
  float4 out = values(0);
#pragma unroll 4
  for (int unit = 1; unit < units; ++unit) {
    const Merged merged = merge(state, partial_states(call, plan.first_slot + unit)[head]);
    const float4 more = values(unit);
    out = {merge_out(out.x, more.x, merged), merge_out(out.y, more.y, merged),
           merge_out(out.z, more.z, merged), merge_out(out.w, more.w, merged)};
    state = merged.state;
  }

  const Finished finished = finish_head(call, state, head);
  if (thread == 0) write_lse(call, finished.lse, row, head);
  const Layer& layer = call.layer;
  uint16_t* const answer =
      layer.out + row_offset(layer.out_strides, call.queries, row, head) + kThreadValues * thread;
  const float weight = finished.out_weight;
  const uint2 pairs = {bf16x2(out.x * weight, out.y * weight),
                       bf16x2(out.z * weight, out.w * weight)};
  if (reinterpret_cast<uintptr_t>(answer) % sizeof pairs == 0) {
    *reinterpret_cast<uint2*>(answer) = pairs;
  } else {
    for (int i = 0; i < kThreadValues; ++i)
      answer[i] = static_cast<uint16_t>((i < 2 ? pairs.x : pairs.y) >> (16 * (i % 2)));
  }
}

__global__ void __launch_bounds__(kMergeThreads)
    merge_kernel(const __grid_constant__ LayerCall call, Look look) {
  ptx::let_next_grid_begin();
  const bool has_plan = planned_early(call);
  const int split_count = read_plan(&call.tables.plan.header->split_count);
  ptx::wait_for_earlier_grids();
  if (!has_plan) return;
  // Check has read it; nothing here does.
  if (call.tables.faults != nullptr && blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0)
    ++*call.tables.layer;
  if (split_count == 0) return;
  const int rows = look == Look::kAll ? call.layer.batch * call.queries.number() : split_count;
  for (int i = static_cast<int>(blockIdx.y); i < rows; i += static_cast<int>(gridDim.y)) {
    const int row = look == Look::kAll ? i : call.tables.plan.split_rows[i];
    const RowPlan plan = call.tables.plan.rows[row];
    if (plan.first_slot != RowPlan::kWhole)
      merge_row(call, plan, row, static_cast<int>(blockIdx.x));
  }
}

}  // namespace

cudaError_t launch_merge(const LayerCall& call, cudaStream_t stream) {
  // With no more rows than parts all are looked at: one look-up less. More blocks than a card
  // holds at once would only come and go.
  constexpr int kMostBlocks = 2048;
  const int rows = call.layer.batch * call.queries.number();
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(call.heads, std::min(rows, std::max(1, kMostBlocks / call.heads)));
  config.blockDim = dim3(kMergeThreads);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, merge_kernel, call,
                            rows <= call.limits.parts ? Look::kAll : Look::kListed);
}

}  // namespace steady::cuda::sm90
