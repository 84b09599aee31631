// SPDX-License-Identifier: Apache-2.0
// src/cuda/ptx/barrier.cuh, for the host.
#pragma once

#include "cuda/ptx/mma.cuh"

namespace steady::cuda::ptx {

inline void sync(int id, int threads) { emulated::block->barriers[id].arrive_and_wait(threads); }

/// From the lowest bit on: 16 bits of arrivals still missing in this phase, 16 of arrivals of each
/// phase, phases.
constexpr uint64_t kCountBits = 16, kPhaseAt = 32;
constexpr uint64_t kCounts = (1u << kCountBits) - 1;

inline void init_barrier(uint64_t* barrier, int arrivals) {
  *barrier = static_cast<uint64_t>(arrivals) << kCountBits | static_cast<uint64_t>(arrivals);
}

inline void arrive(uint64_t* barrier) {
  const std::atomic_ref<uint64_t> state(*barrier);
  uint64_t before = state.load(), after = 0;
  do {
    const uint64_t each = before >> kCountBits & kCounts, missing = (before & kCounts) - 1;
    const uint64_t phase = before >> kPhaseAt;
    after = missing == 0 ? (phase + 1) << kPhaseAt | each << kCountBits | each
                         : phase << kPhaseAt | each << kCountBits | missing;
  } while (!state.compare_exchange_weak(before, after));
  state.notify_all();
}

inline void wait(uint64_t* barrier, uint32_t parity) {
  const std::atomic_ref<uint64_t> state(*barrier);
  for (uint64_t now = state.load(); (now >> kPhaseAt) % 2 == parity; now = state.load())
    state.wait(now);
}

inline void fence_barriers() {}
inline void fence_shared_writes() {}
template <int, int>
void change_registers() {}

}  // namespace steady::cuda::ptx
