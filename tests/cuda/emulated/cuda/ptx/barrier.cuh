// SPDX-License-Identifier: Apache-2.0
// src/cuda/ptx/barrier.cuh, for the host.
#pragma once

#include "cuda/ptx/mma.cuh"

namespace steady::cuda::ptx {

inline void sync(int id, int threads) { emulated::block->barriers[id].arrive_and_wait(threads); }

inline bool sync_any(int id, int threads, bool predicate) {
  std::atomic<bool>& any = emulated::block->any[id];
  if (predicate) any.store(true);
  sync(id, threads);
  const bool result = any.load();
  sync(id, threads);
  any.store(false);
  sync(id, threads);
  return result;
}

/// From the lowest bit on: 12 bits of arrivals still missing in this phase, 12 of arrivals of each
/// phase, 24 of bytes still missing, phases.
constexpr uint64_t kCountBits = 12, kBytesAt = 24, kPhaseAt = 48;
constexpr uint64_t kCounts = (1u << kCountBits) - 1, kBytes = (1u << (kPhaseAt - kBytesAt)) - 1;

inline void init_barrier(uint64_t* barrier, int arrivals) {
  *barrier = static_cast<uint64_t>(arrivals) << kCountBits | static_cast<uint64_t>(arrivals);
}

/// So many arrivals, and so many more bytes to come; fewer, if they are negative.
inline void change(uint64_t* barrier, int arrivals, int bytes) {
  const std::atomic_ref<uint64_t> state(*barrier);
  uint64_t before = state.load(), after = 0;
  do {
    const uint64_t each = before >> kCountBits & kCounts;
    uint64_t missing = (before & kCounts) - static_cast<uint64_t>(arrivals);
    const uint64_t to_come = ((before >> kBytesAt) + static_cast<uint64_t>(bytes)) & kBytes;
    uint64_t phase = before >> kPhaseAt;
    if (missing == 0 && to_come == 0) {
      missing = each;
      ++phase;
    }
    after = phase << kPhaseAt | to_come << kBytesAt | each << kCountBits | missing;
  } while (!state.compare_exchange_weak(before, after));
  state.notify_all();
}

inline void arrive(uint64_t* barrier) { change(barrier, 1, 0); }

inline void arrive_when_copied(uint64_t* barrier) {
  wait_copies();
  arrive(barrier);
}

inline void wait(uint64_t* barrier, uint32_t parity) {
  const std::atomic_ref<uint64_t> state(*barrier);
  for (uint64_t now = state.load(); (now >> kPhaseAt) % 2 == parity; now = state.load())
    state.wait(now);
}

inline bool is_over(uint64_t* barrier, uint32_t parity) {
  return (std::atomic_ref<uint64_t>(*barrier).load() >> kPhaseAt) % 2 != parity;
}

inline void fence_barriers() {}
inline void fence_shared_writes() {}
template <int, int>
void change_registers() {}

}  // namespace steady::cuda::ptx
