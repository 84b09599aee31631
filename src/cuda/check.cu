// SPDX-License-Identifier: Apache-2.0
// A plan and a layer's slots in, those outside their pools into the report. One block a row.
#include "cuda/check.hpp"

#include "cuda/faults.cuh"
#include "cuda/row_state.cuh"

namespace steady::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) check_kernel(const __grid_constant__ LayerCall call) {
  if (!planned(call)) return;
  const int row = static_cast<int>(blockIdx.x);
  const int request = call.queries.divide(row), query = row - request * call.queries.number();
  const RowPlan plan = call.tables.plan.rows[row];
  FaultSeen seen = {};
  for (int scope = 0; scope < kScopes; ++scope) {
    const Pool& pool = call.layer.scopes[scope];
    const int32_t* slots = pool.slots + row * pool.slots_stride;
    for (int position = static_cast<int>(threadIdx.x); position < plan.tokens[scope];
         position += kThreads) {
      const int32_t slot = slots[position];
      if (slot == kHole || pool.has(slot)) continue;
      add({1, *call.tables.layer, call.layer.kind, scope, request, query, position, slot}, &seen);
    }
  }
  add<kThreads>(seen, &call.tables.faults->stray_slot);
}

}  // namespace

cudaError_t launch_check(const LayerCall& call, int rows, cudaStream_t stream) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(rows);
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, check_kernel, call);
}

}  // namespace steady::cuda
