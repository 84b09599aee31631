// SPDX-License-Identifier: Apache-2.0
// Bad lengths and slots seen by many threads in, their count and first place out.
#pragma once

#include "core/faults.hpp"
#include "core/work.hpp"
#include "cuda/memory.hpp"

namespace steady::cuda {

/// Only a checked engine on bad input comes here, so a lock is fast enough.
__device__ inline void add(const FaultSeen& more, SharedFault* fault) {
  bool done = false;
  while (!done) {
    if (atomicCAS(&fault->lock, 0, 1) != 0) continue;
    __threadfence();
    // Another multiprocessor may have written it since this one last looked.
    volatile FaultSeen* seen = &fault->seen;
    const FaultSeen before = {seen->count,   seen->layer, seen->kind,     seen->scope,
                              seen->request, seen->query, seen->position, seen->value};
    fault->seen = joined(before, more);
    __threadfence();
    atomicExch(&fault->lock, 0);
    done = true;
  }
}

}  // namespace steady::cuda
