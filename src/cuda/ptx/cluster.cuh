// SPDX-License-Identifier: Apache-2.0
// What blocks of a cluster do to each other's shared memory, one instruction a function (sm_90).
#pragma once

#include <cstdint>

#include "cuda/ptx/barrier.cuh"

namespace steady::cuda::ptx {

/// Of this block among its cluster's.
__device__ inline int cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}

/// All threads of all blocks of the cluster have come here. Relaxed, because a release costs a
/// fence of the whole device: what they sent each other before may still be on its way.
__device__ inline void sync_cluster() {
  asm volatile(
      "barrier.cluster.arrive.relaxed.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}

/// The same place in block `rank`'s shared memory.
struct Remote {
  uint32_t address;
};
__device__ inline Remote in_block(const void* shared, int rank) {
  Remote remote;
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(remote.address)
      : "r"(shared_address(shared)), "r"(rank));
  return remote;
}
__device__ inline Remote advance(Remote remote, uint32_t bytes) { return {remote.address + bytes}; }

/// One arrival at another block's barrier. What this thread read before may then be overwritten. No
/// release to the cluster: that costs a fence of the whole device. Whoever of its warp wrote where
/// the other block will copy to has called fence_shared_writes() before a __syncwarp. The other
/// block must still be there when it arrives.
__device__ inline void arrive(Remote barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier.address) : "memory");
}

/// One arrival at this block's barrier, whose phase ends when `bytes` have come by store_async() or
/// copy_to_block().
__device__ inline void arrive_and_expect(uint64_t* barrier, int bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}

/// Sixteen bytes into another block's memory, counted by a barrier beside them there.
__device__ inline void store_async(Remote to, const float4& values, Remote barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, "
      "[%5];" ::"r"(to.address),
      "f"(values.x), "f"(values.y), "f"(values.z), "f"(values.w), "r"(barrier.address)
      : "memory");
}

/// The same, of integers.
__device__ inline void store_async(Remote to, const uint4& values, Remote barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, "
      "[%5];" ::"r"(to.address),
      "r"(values.x), "r"(values.y), "r"(values.z), "r"(values.w), "r"(barrier.address)
      : "memory");
}

/// Four bytes.
__device__ inline void store_async(Remote to, float value, Remote barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(to.address),
      "f"(value), "r"(barrier.address)
      : "memory");
}

/// Eight bytes.
__device__ inline void store_async(Remote to, uint64_t value, Remote barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.b64 [%0], %1, [%2];" ::"r"(to.address),
      "l"(value), "r"(barrier.address)
      : "memory");
}

/// The same, of two floats.
__device__ inline void store_async(Remote to, const float2& values, Remote barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(
          to.address),
      "f"(values.x), "f"(values.y), "r"(barrier.address)
      : "memory");
}

/// Copies a multiple of 16 bytes of this block's memory to another's, counted by a barrier beside
/// them there. Who wrote them has called fence_shared_writes(); they must stay until the other
/// block says that it has them.
__device__ inline void copy_to_block(Remote to, const void* from, int bytes, Remote barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(to.address),
      "r"(shared_address(from)), "r"(bytes), "r"(barrier.address)
      : "memory");
}

}  // namespace steady::cuda::ptx
