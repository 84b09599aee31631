// SPDX-License-Identifier: Apache-2.0
// A row in eight, four or two blocks that share its vectors' values: in each of them two warpgroups
// copy tokens, two score them, one makes the weights of the block's share of the heads and one
// weighs. Eight and four are for few rows, two for up to 16 heads.
#pragma once

#include "cuda/sm90/columns/copier.cuh"
#include "cuda/sm90/columns/maker.cuh"
#include "cuda/sm90/columns/scorer.cuh"
#include "cuda/sm90/columns/weigher.cuh"

namespace steady::cuda::sm90::columns {

inline constexpr int kThreads = (kScorers + 4) * kGroupThreads;

/// Registers of a thread when a block begins, in the steps of eight in which there are registers.
inline constexpr int kRegistersAtFirst = 65536 / kThreads / 8 * 8;

template <class S>
struct Registers {
  static constexpr bool kTwo = S::kCluster == 2, kEight = S::kCluster == 8, kLarge = S::kHeads > 16;
  static constexpr int kScorer = kTwo || kLarge ? 112 : 104;
  static constexpr int kWeigher = kTwo ? 88 : kLarge || kEight ? 96 : 80;
  static constexpr int kMaker = kTwo ? 72 : kLarge || kEight ? 80 : 96;
  static constexpr int kCopier = kLarge ? 40 : 48;
  static_assert(kScorers * kScorer + kWeigher + kMaker + 2 * kCopier <=
                kThreads / kGroupThreads * kRegistersAtFirst);
};

template <class S>
__device__ void prepare(Shared<S>& shared) {
  if (threadIdx.x == 0) {
    for (uint32_t raw = 0; raw < kRaws; ++raw) {
      // Each lane when its copies are done, and one for what its warp says of them.
      ptx::init_barrier(&shared.raw_full[raw], kTileCopiers * (32 + 1));
      ptx::init_barrier(&shared.raw_empty[raw], kGroupThreads);
    }
    for (uint32_t buffer = 0; buffer < S::kBuffers; ++buffer) {
      // One thread expects what comes from other blocks: weights, and the values of tiles that the
      // twin scores. Of one that is scored here the twin's weigher hands back values, too.
      ptx::init_barrier(&shared.tile_full[buffer],
                        1 + (is_scored_here<S>(buffer) ? kGroupThreads : 0));
      ptx::init_barrier(&shared.values_empty[buffer], kGroupThreads + (S::kTwins - 1) * kWarps);
      ptx::init_barrier(&shared.scores_full[buffer], 1);
      ptx::init_barrier(&shared.unit_end_full[buffer], 1);
    }
    if constexpr (S::kTurns > 1) {
      for (uint64_t& barrier : shared.turns.has_references) ptx::init_barrier(&barrier, 32);
      for (uint64_t& barrier : shared.turns.has_sums) ptx::init_barrier(&barrier, 32);
    }
    ptx::fence_barriers();
  }
  __syncthreads();
  ptx::sync_cluster();
}

template <int kCluster, int kHeads>
__global__ void __launch_bounds__(kThreads, 1) columns_kernel(const __grid_constant__ Call call) {
  using S = Share<kCluster, kHeads>;
  auto& shared = *reinterpret_cast<Shared<S>*>(ptx::dynamic_shared());
  prepare(shared);
  ptx::let_next_grid_begin();
  // The same for all lanes, so that the compiler sees that a warp has one role.
  const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kGroupThreads, 0);
  bool has_plan;
  if (group < kScorers) {
    ptx::change_registers<kRegistersAtFirst, Registers<S>::kScorer>();
    has_plan = do_part<S::kCluster>(call, Scorer<S>(call, shared, group));
  } else if (group < kScorers + 2) {
    ptx::change_registers<kRegistersAtFirst, Registers<S>::kCopier>();
    has_plan = do_part<S::kCluster>(call, Copier<S>(call, shared));
  } else if (group == kScorers + 2) {
    ptx::change_registers<kRegistersAtFirst, Registers<S>::kWeigher>();
    has_plan = do_part<S::kCluster>(call, Weigher<S>(call, shared));
  } else {
    ptx::change_registers<kRegistersAtFirst, Registers<S>::kMaker>();
    has_plan = do_part<S::kCluster>(call, Maker<S>(call, shared));
  }
  if (!has_plan && blockIdx.y == 0) poison(call);
}

}  // namespace steady::cuda::sm90::columns
