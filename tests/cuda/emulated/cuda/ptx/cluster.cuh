// SPDX-License-Identifier: Apache-2.0
// src/cuda/ptx/cluster.cuh, for the host: what is stored asynchronously is there at once,
// arrivals and copies take a while, and a launch fails in which one of them finds its block gone.
#pragma once

#include <chrono>
#include <thread>

#include "cuda/ptx/barrier.cuh"
#include "tests/cuda/emulated/late_copies.hpp"

namespace steady::cuda::ptx {

inline int cluster_rank() { return emulated::block->rank; }
inline void sync_cluster() {
  emulated::cluster->barrier.arrive_and_wait(
      static_cast<int>(blockDim.x * emulated::cluster->blocks.size()));
}

struct Remote {
  uint8_t* address;
};
inline Remote in_block(const void* shared, int rank) {
  return {emulated::cluster->blocks[rank]->shared +
          (static_cast<const uint8_t*>(shared) - emulated::block->shared)};
}
inline Remote advance(Remote remote, uint32_t bytes) { return {remote.address + bytes}; }

/// Memory of a block that must not be gone.
inline void expect_block_of(const uint8_t* address) {
  for (const auto& block : emulated::cluster->blocks) {
    const auto offset = address - block->shared;
    if (offset >= 0 && offset < static_cast<ptrdiff_t>(block->memory.size()) && block->running == 0)
      emulated::cluster->fails = true;
  }
}
inline uint64_t* barrier_at(Remote remote) {
  expect_block_of(remote.address);
  return reinterpret_cast<uint64_t*>(remote.address);
}
/// On its way for a while.
inline void arrive(Remote barrier) {
  std::this_thread::sleep_for(std::chrono::microseconds(200));
  change(barrier_at(barrier), 1, 0);
}
inline void arrive_and_expect(uint64_t* barrier, int bytes) { change(barrier, 1, bytes); }
template <class T>
void store_async(Remote to, const T& values, Remote barrier) {
  std::memcpy(to.address, &values, sizeof values);
  change(barrier_at(barrier), 0, -static_cast<int>(sizeof values));
}

/// On its way for a while, too, and nobody waits for it but at the barrier.
inline void copy_to_block(Remote to, const void* from, int bytes, Remote barrier) {
  constexpr int kOneGroup = 128;
  emulated::Cluster* const here = emulated::cluster;
  const bool late = emulated::copies_are_late && emulated::block->rank == 0;
  here->copies.fetch_add(1, std::memory_order_relaxed);
  std::thread([=] {
    emulated::cluster = here;
    do {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    } while (late && here->blocks[0]->running > kOneGroup);
    expect_block_of(static_cast<const uint8_t*>(from));
    std::memcpy(to.address, from, bytes);
    change(barrier_at(barrier), 0, -bytes);
    here->copies.fetch_sub(1, std::memory_order_release);
  }).detach();
}

}  // namespace steady::cuda::ptx
