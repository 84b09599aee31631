// SPDX-License-Identifier: Apache-2.0
// A row in a cluster of blocks that share its vectors' values: in each of them one warpgroup
// scores, one weighs and two bring tokens. For few rows: each takes less time.
#pragma once

#include "cuda/sm90/cluster/producer.cuh"
#include "cuda/sm90/cluster/scorer.cuh"
#include "cuda/sm90/cluster/weigher.cuh"

namespace steady::cuda::sm90::cluster {

template <class S>
struct Registers {
  static constexpr bool kPair = S::kCluster == 2;
  static constexpr int kScorer = 112;
  static constexpr int kWeigher = kPair ? 224 : 184;
  static constexpr int kProducer = kPair ? 88 : 104;
  static_assert(kScorer + kWeigher + 2 * kProducer <= kThreads / kGroupThreads * kRegistersAtFirst);
};

template <class S>
__device__ void prepare(Shared<S>& shared) {
  if (threadIdx.x == 0) {
    for (uint32_t buffer = 0; buffer < S::kTokenBuffers; ++buffer) {
      ptx::init_barrier(&shared.tokens_full[buffer], kProducerWarps);
      ptx::init_barrier(&shared.tokens_empty[buffer], 2 * kWarps);
    }
    for (uint32_t buffer = 0; buffer < S::kScoreBuffers; ++buffer) {
      for (int warp = 0; warp < kWarps; ++warp) {
        ptx::init_barrier(&shared.scores_full[warp][buffer], 1);
        ptx::init_barrier(&shared.scores_empty[warp][buffer], S::kCluster);
      }
    }
    ptx::fence_barriers();
  }
  fill_with_ones(shared.ones);
  __syncthreads();
  ptx::sync_cluster();
}

/// Waits for what was launched before, and does the part of this block's cluster. False without a
/// plan for this batch. All that a role can know before it is known by then.
template <class S, class Role>
__device__ bool do_part(const LayerCall& call, Role role) {
  ptx::wait_for_earlier_grids();  // nothing of theirs may be read before, nor written
  // It may be garbage until the plan is known to be there, but it is there to be read.
  const PartRange part = call.tables.plan.parts[ptx::block_number() / S::kCluster];
  if (!planned(call)) return false;
  // No other block of the cluster goes on without tiles, either.
  if (before(part.begin, part.end)) role.part(part);
  return true;
}

template <class S>
__global__ void __launch_bounds__(kThreads, 1)
    cluster_kernel(const __grid_constant__ LayerCall call,
                   const __grid_constant__ Divisors page_tokens) {
  auto& shared = *reinterpret_cast<Shared<S>*>(ptx::dynamic_shared());
  prepare(shared);
  ptx::let_next_grid_begin();
  // The same for all lanes, so that the compiler sees that a warp has one role.
  const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kGroupThreads, 0);
  bool has_plan;
  if (group == 0) {
    ptx::change_registers<kRegistersAtFirst, Registers<S>::kScorer>();
    has_plan = do_part<S>(call, Scorer<S>(call, shared));
  } else if (group == 1) {
    ptx::change_registers<kRegistersAtFirst, Registers<S>::kWeigher>();
    has_plan = do_part<S>(call, Weigher<S>(call, shared));
  } else {
    ptx::change_registers<kRegistersAtFirst, Registers<S>::kProducer>();
    has_plan = do_part<S>(call, Producer<S>(call, page_tokens, shared));
  }
  if (!has_plan && blockIdx.y == 0) poison(call);
  ptx::sync_cluster();  // others may still send scores here
}

}  // namespace steady::cuda::sm90::cluster
