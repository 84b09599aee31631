// SPDX-License-Identifier: Apache-2.0
// src/cuda/ptx/barrier.cuh, for the host.
#pragma once

#include "cuda/ptx/mma.cuh"

namespace steady::cuda::ptx {

inline void sync(int id, int threads) { emulated::block->barriers[id].arrive_and_wait(threads); }

inline bool sync_any(int id, int threads, bool says) {
  std::atomic<bool>& said = emulated::block->said[id];
  if (says) said = true;
  sync(id, threads);
  const bool any = said;
  sync(id, threads);
  said = false;
  sync(id, threads);
  return any;
}

/// Phases in the upper half of a barrier, arrivals of a phase and those still missing below.
inline void init_barrier(uint64_t* barrier, int arrivals) {
  *barrier = static_cast<uint64_t>(arrivals) << 16 | static_cast<uint64_t>(arrivals);
}

inline void arrive(uint64_t* barrier) {
  const std::atomic_ref<uint64_t> state(*barrier);
  uint64_t before = state.load(), after = 0;
  do {
    const uint64_t arrivals = before >> 16 & 0xffff, missing = (before & 0xffff) - 1;
    after = missing > 0 ? before - 1 : (((before >> 32) + 1) << 32 | arrivals << 16 | arrivals);
  } while (!state.compare_exchange_weak(before, after));
  state.notify_all();
}

inline void wait(uint64_t* barrier, uint32_t parity) {
  const std::atomic_ref<uint64_t> state(*barrier);
  for (uint64_t now = state.load(); (now >> 32) % 2 == parity; now = state.load()) state.wait(now);
}

inline void fence_shared_writes() {}
template <int, int>
void change_registers() {}

template <int kCount>
void store_transposed(void* row, const uint32_t (&registers)[kCount]) {
  emulated::exchange(row, [&](const auto& of_lane) {
    const int r = emulated::lane() / 4, c = emulated::lane() % 4 * 2;
    for (int matrix = 0; matrix < kCount; ++matrix) {
      for (int e = 0; e < 2; ++e) {
        static_cast<uint16_t*>(of_lane(8 * matrix + c + e))[r] =
            static_cast<uint16_t>(registers[matrix] >> (16 * e));
      }
    }
    return 0;
  });
}
inline void store_matrices_transposed(void* row, const uint32_t (&registers)[4]) {
  store_transposed(row, registers);
}
inline void store_matrices_transposed(void* row, const uint32_t (&registers)[2]) {
  store_transposed(row, registers);
}

}  // namespace steady::cuda::ptx
