// SPDX-License-Identifier: Apache-2.0
// Partials of split rows in, their answers out: one warp a head, the units in their order.
#include <cuda_bf16.h>

#include "cuda/merge.hpp"
#include "cuda/row_state.cuh"

namespace steady::cuda {
namespace {

constexpr int kHeadsABlock = 8;  // one warp each
constexpr int kPairs = kHeadDim / 2 / 32;

__global__ void __launch_bounds__(kHeadsABlock * 32)
    merge_kernel(const __grid_constant__ LayerCall call) {
  const int head = static_cast<int>(blockIdx.y) * kHeadsABlock + static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (!planned(call)) return;
  // Check has read it; nothing here does.
  const bool first_thread = blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0;
  if (call.tables.faults != nullptr && first_thread) ++*call.tables.layer;
  if (head >= call.heads) return;
  if (static_cast<int>(blockIdx.x) >= call.tables.plan.header->split_count) return;

  const int row = call.tables.plan.split_rows[blockIdx.x];
  const RowPlan plan = call.tables.plan.rows[row];
  const int units = cut_row(plan.tokens[0] + plan.tokens[1], call.limits).count;
  const int first = plan.first_slot;
  SoftmaxState state = partial_states(call, first)[head];
  float2 out[kPairs];
  const auto* left = reinterpret_cast<const float2*>(partial_out(call, first, head));
  for (int i = 0; i < kPairs; ++i) out[i] = left[lane + 32 * i];

  for (int unit = 1; unit < units; ++unit) {
    const Merged merged = merge(state, partial_states(call, first + unit)[head]);
    const auto* right = reinterpret_cast<const float2*>(partial_out(call, first + unit, head));
    for (int i = 0; i < kPairs; ++i) {
      const float2 more = right[lane + 32 * i];
      out[i] = {merge_out(out[i].x, more.x, merged), merge_out(out[i].y, more.y, merged)};
    }
    state = merged.state;
  }

  const Finished finished = finish_head(call, state, head);
  if (lane == 0) write_lse(call, finished.lse, row, head);
  const Layer& layer = call.layer;
  uint16_t* answer = layer.out + row_offset(layer.out_strides, call.queries, row, head);
  for (int i = 0; i < kPairs; ++i) {
    const int d = 2 * (lane + 32 * i);
    answer[d] = __bfloat16_as_ushort(__float2bfloat16_rn(out[i].x * finished.out_weight));
    answer[d + 1] = __bfloat16_as_ushort(__float2bfloat16_rn(out[i].y * finished.out_weight));
  }
}

}  // namespace

cudaError_t launch_merge(const LayerCall& call, cudaStream_t stream) {
  cudaLaunchConfig_t config = {};
  // A border between two parts splits one row at most.
  config.gridDim = dim3(call.limits.parts, (call.heads + kHeadsABlock - 1) / kHeadsABlock);
  config.blockDim = dim3(kHeadsABlock * 32);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, merge_kernel, call);
}

}  // namespace steady::cuda
