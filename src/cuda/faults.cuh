// SPDX-License-Identifier: Apache-2.0
// Bad lengths and slots seen by many threads in, their count and first place out.
#pragma once

#include "core/faults.hpp"
#include "core/work.hpp"
#include "cuda/attend.hpp"
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

/// A slot outside its pool, at `position` of the row's slots in `scope`.
__device__ inline void log_stray(const LayerCall& call, int row, int scope, int position,
                                 int32_t slot) {
  add({1, *call.tables.layer, call.layer.kind, scope, row / call.queries, row % call.queries,
       position, slot},
      &call.tables.faults->stray_slot);
}

}  // namespace steady::cuda
