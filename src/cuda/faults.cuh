// SPDX-License-Identifier: Apache-2.0
// Bad lengths and slots seen by a block's threads in, their count and first place out.
#pragma once

#include <cub/block/block_reduce.cuh>

#include "core/faults.hpp"
#include "cuda/memory.hpp"

namespace steady::cuda {

/// All `kThreads` of a block come here together, each with what it has seen. Only for bad input
/// does one of them go on, so a lock is fast enough.
template <int kThreads>
__device__ void add(const FaultSeen& seen_by_thread, SharedFault* fault) {
  using Reduce = cub::BlockReduce<FaultSeen, kThreads>;
  __shared__ typename Reduce::TempStorage memory;
  const auto join = [](const FaultSeen& a, const FaultSeen& b) { return joined(a, b); };
  __syncthreads();  // the memory may be in use for another fault
  const FaultSeen more = Reduce(memory).Reduce(seen_by_thread, join);
  if (threadIdx.x != 0 || more.count == 0) return;
  while (atomicCAS(&fault->lock, 0, 1) != 0) {
  }
  __threadfence();
  // Another multiprocessor may have written it since this one last looked.
  volatile FaultSeen* seen = &fault->seen;
  const FaultSeen before = {seen->count,   seen->layer, seen->kind,     seen->scope,
                            seen->request, seen->query, seen->position, seen->value};
  fault->seen = joined(before, more);
  __threadfence();
  atomicExch(&fault->lock, 0);
}

}  // namespace steady::cuda
