// SPDX-License-Identifier: Apache-2.0
// A row in four blocks that share its vectors' values: in each of them one warpgroup scores, one
// makes the weights of a quarter of the heads, one weighs and two bring tokens. For few rows: each
// takes less time.
#pragma once

#include "cuda/sm90/four/maker.cuh"
#include "cuda/sm90/four/producer.cuh"
#include "cuda/sm90/four/scorer.cuh"
#include "cuda/sm90/four/weigher.cuh"

namespace steady::cuda::sm90::four {

inline constexpr int kThreads = sm90::kThreads + kGroupThreads;

/// Registers of a thread when a block begins, in the steps of eight in which there are registers.
inline constexpr int kRegistersAtFirst = 65536 / kThreads / 8 * 8;

template <class S>
struct Registers {
  static constexpr bool kLarge = S::kHeads == 32;
  static constexpr int kScorer = 72, kMaker = 88;
  static constexpr int kWeigher = kLarge ? 96 : 72;
  static constexpr int kProducer = kLarge ? 112 : 120;
  static_assert(kScorer + kWeigher + kMaker + 2 * kProducer <=
                kThreads / kGroupThreads * kRegistersAtFirst);
};

template <class S>
__device__ void prepare(Shared<S>& shared) {
  if (threadIdx.x == 0) {
    for (uint32_t buffer = 0; buffer < S::kTokenBuffers; ++buffer) {
      ptx::init_barrier(&shared.tokens_full[buffer], kProducerWarps);
      ptx::init_barrier(&shared.tokens_empty[buffer], 2 * kWarps + S::kTwos);
      ptx::init_barrier(&shared.scores_full[buffer], 1);
      ptx::init_barrier(&shared.weights_full[buffer], 1);
    }
    ptx::fence_barriers();
  }
  __syncthreads();
  ptx::sync_cluster();
}

template <int kHeads>
__global__ void __launch_bounds__(kThreads, 1)
    four_kernel(const __grid_constant__ LayerCall call,
                const __grid_constant__ Divisors page_tokens) {
  using S = Share<kHeads>;
  auto& shared = *reinterpret_cast<Shared<S>*>(ptx::dynamic_shared());
  prepare(shared);
  ptx::let_next_grid_begin();
  // The same for all lanes, so that the compiler sees that a warp has one role.
  const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kGroupThreads, 0);
  bool has_plan;
  if (group == 0) {
    ptx::change_registers<kRegistersAtFirst, Registers<S>::kScorer>();
    has_plan = do_part<kCluster>(call, Scorer<S>(call, shared));
  } else if (group == 1) {
    ptx::change_registers<kRegistersAtFirst, Registers<S>::kWeigher>();
    has_plan = do_part<kCluster>(call, Weigher<S>(call, shared));
  } else if (group == 4) {
    ptx::change_registers<kRegistersAtFirst, Registers<S>::kMaker>();
    has_plan = do_part<kCluster>(call, Maker<S>(call, shared));
  } else {
    ptx::change_registers<kRegistersAtFirst, Registers<S>::kProducer>();
    has_plan = do_part<kCluster>(call, Producer<S>(call, page_tokens, shared));
  }
  if (!has_plan && blockIdx.y == 0) poison(call);
  ptx::sync_cluster();  // nobody sends to a block that is gone
}

}  // namespace steady::cuda::sm90::four
