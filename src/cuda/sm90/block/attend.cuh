// SPDX-License-Identifier: Apache-2.0
// A row's whole vectors in one block: one warpgroup brings tokens, one scores them, and two weigh
// half of the values each and bring queries. For many rows: no sums are exchanged between blocks.
// With more heads than a block has, two blocks bring half of the row's tokens each.
#pragma once

#include "cuda/sm90/block/producer.cuh"
#include "cuda/sm90/block/scorer.cuh"
#include "cuda/sm90/block/weigher.cuh"

namespace steady::cuda::sm90::block {

inline constexpr int kScorerRegisters = 120, kWeigherRegisters = 160, kProducerRegisters = 72;
static_assert(kScorerRegisters + kWeighers * kWeigherRegisters + kProducerRegisters <=
              kThreads / kGroupThreads * kRegistersAtFirst);

template <int kSharers>
__device__ void prepare(const Call& call, Shared& shared) {
  if (threadIdx.x == 0) {
    shared.heads = heads_here(call);
    for (uint32_t buffer = 0; buffer < kBuffers; ++buffer) {
      ptx::init_barrier(&shared.tokens_full[buffer], kGroupThreads);
      // One lane arrives for a warp of another block.
      for (auto& of_piece : shared.tokens_empty)
        ptx::init_barrier(&of_piece[buffer], kWeighers * (kGroupThreads + (kSharers - 1) * kWarps));
    }
    for (uint64_t& full : shared.found_full) ptx::init_barrier(&full, kGroupThreads);
    ptx::init_barrier(shared.queries_full, kWeighers * kGroupThreads);
    ptx::init_barrier(shared.weights_full, kGroupThreads);
    ptx::init_barrier(shared.weights_empty, kWeighers * kGroupThreads);
    ptx::init_barrier(shared.unit_end_full, kGroupThreads);
    ptx::fence_barriers();
  }
  fill_with_ones(shared.ones);
  __syncthreads();
  if constexpr (kSharers > 1) ptx::sync_cluster();
}

/// The blocks of so many groups of heads are a cluster and share what they bring of a row.
template <int kHeads, int kSharers>
__global__ void __launch_bounds__(kThreads, 1) block_kernel(const __grid_constant__ Call call) {
  auto& shared = *reinterpret_cast<Shared*>(ptx::dynamic_shared());
  prepare<kSharers>(call, shared);
  ptx::let_next_grid_begin();
  touch_parameters(call);
  const PartRange range = read_plan(&call.tables.plan.parts[ptx::block_number()]);
  const bool has_plan = planned_early(call);
  if (!has_plan || !before(range.begin, range.end)) {
    ptx::wait_for_earlier_grids();
    if (!has_plan && blockIdx.y == 0) poison(call);
    return;
  }
  // The same for all lanes, so that the compiler sees that a warp has one role.
  const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kGroupThreads, 0);
  if (group == 0) {
    ptx::change_registers<kRegistersAtFirst, kScorerRegisters>();
    Scorer<kHeads>(call, shared).part(range);
  } else if (group == 1) {
    ptx::change_registers<kRegistersAtFirst, kProducerRegisters>();
    Producer<kSharers>(call, shared).part();
  } else {
    ptx::change_registers<kRegistersAtFirst, kWeigherRegisters>();
    Weigher<kHeads, kSharers>(call, (group - 2) * kHeadDim / kWeighers, shared)
        .part(range.begin.row);
  }
}

}  // namespace steady::cuda::sm90::block
