// SPDX-License-Identifier: Apache-2.0
// Asynchronous copies from global to shared memory, one instruction a function (sm_80 and later).
#pragma once

#include <cstdint>

namespace steady::cuda::ptx {

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// The shared memory that a launch asked for.
__device__ inline uint8_t* dynamic_shared() {
  extern __shared__ __align__(1024) uint8_t memory[];
  return memory;
}

/// 16 bytes past the L1 cache; both addresses aligned to 16.
__device__ inline void copy_async_16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)),
               "l"(global)
               : "memory");
}

/// 8 bytes; both addresses aligned to 8.
__device__ inline void copy_async_8(void* shared, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared_address(shared)), "l"(global)
               : "memory");
}

/// Waits for all of this thread's copies.
__device__ inline void wait_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

}  // namespace steady::cuda::ptx
