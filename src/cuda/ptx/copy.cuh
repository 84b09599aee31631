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

/// 4 bytes; both addresses aligned to 4.
__device__ inline void copy_async_4(void* shared, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(shared)), "l"(global)
               : "memory");
}

/// This thread's copies since the last call are a group.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits for all of this thread's groups but the last `kGroups`.
template <int kGroups>
__device__ inline void wait_copies_but() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

/// Waits for all of this thread's copies.
__device__ inline void wait_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

/// Loads where it stands, not where its result is first used.
__device__ inline void load(uint4* to, const void* from) {
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(to->x), "=r"(to->y), "=r"(to->z), "=r"(to->w)
               : "l"(from));
}

/// The same past the L1 cache, which may remember another launch's.
__device__ inline void load_past_l1(uint4* to, const void* from) {
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(to->x), "=r"(to->y), "=r"(to->z), "=r"(to->w)
               : "l"(from));
}
__device__ inline void load_past_l1(uint32_t* to, const void* from) {
  asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(*to) : "l"(from));
}

/// Has the value made before what follows.
__device__ inline void pin(uint4& value) {
  asm volatile("" : "+r"(value.x), "+r"(value.y), "+r"(value.z), "+r"(value.w));
}

/// Asks for a value where it stands, although nobody needs it.
__device__ inline void touch(uint32_t value) { asm volatile("" ::"r"(value)); }

}  // namespace steady::cuda::ptx
