// SPDX-License-Identifier: Apache-2.0
// A row and more than 16 heads in two blocks that share its vectors' values: in each of them one
// warpgroup scores and makes half of the heads' weights, one weighs and two bring tokens. For rows
// that the card can hold at once.
#pragma once

#include "cuda/sm90/pair/producer.cuh"
#include "cuda/sm90/pair/scorer.cuh"
#include "cuda/sm90/pair/weigher.cuh"

namespace steady::cuda::sm90::pair {

template <class S>
struct Registers {
  static constexpr int kScorer = S::kOverlaps ? 152 : 128, kWeigher = 168,
                       kProducer = S::kOverlaps ? 96 : 104;
  static_assert(kScorer + kWeigher + 2 * kProducer <= kThreads / kGroupThreads * kRegistersAtFirst);
};

template <class S>
__device__ void prepare(Shared<S>& shared) {
  if (threadIdx.x == 0) {
    for (uint32_t buffer = 0; buffer < S::kTokenBuffers; ++buffer) {
      ptx::init_barrier(&shared.tokens_full[buffer], kProducerWarps);
      ptx::init_barrier(&shared.tokens_empty[buffer], 2 * kWarps);
    }
    for (uint32_t buffer = 0; buffer < S::kBuffers; ++buffer) {
      for (auto& of_warp : shared.scores_full) ptx::init_barrier(&of_warp[buffer], 1);
      // One thread expects what comes from the other block.
      ptx::init_barrier(&shared.weights_full[buffer], kGroupThreads + 1);
      ptx::init_barrier(&shared.weights_empty[buffer], kGroupThreads);
      ptx::init_barrier(&shared.unit_end_full[buffer], kGroupThreads + 1);
    }
    ptx::fence_barriers();
  }
  fill_with_ones(shared.ones);
  __syncthreads();
  ptx::sync_cluster();
}

template <int kHeads>
__global__ void __launch_bounds__(kThreads, 1) pair_kernel(const __grid_constant__ Call call) {
  using S = Share<kHeads>;
  auto& shared = *reinterpret_cast<Shared<S>*>(ptx::dynamic_shared());
  prepare(shared);
  ptx::let_next_grid_begin();
  // The same for all lanes, so that the compiler sees that a warp has one role.
  const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kGroupThreads, 0);
  bool has_plan;
  if (group == 0) {
    ptx::change_registers<kRegistersAtFirst, Registers<S>::kScorer>();
    has_plan = do_part<S::kCluster>(call, Scorer<S>(call, shared));
  } else if (group == 1) {
    ptx::change_registers<kRegistersAtFirst, Registers<S>::kWeigher>();
    has_plan = do_part<S::kCluster>(call, Weigher<S>(call, shared));
  } else {
    ptx::change_registers<kRegistersAtFirst, Registers<S>::kProducer>();
    has_plan = do_part<S::kCluster>(call, Producer<S>(call, shared));
  }
  if (!has_plan && blockIdx.y == 0) poison(call);
}

}  // namespace steady::cuda::sm90::pair
