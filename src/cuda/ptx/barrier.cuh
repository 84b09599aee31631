// SPDX-License-Identifier: Apache-2.0
// Barriers between the warps of a block, one instruction a function (sm_90).
#pragma once

#include <cstdint>

#include "cuda/ptx/copy.cuh"

namespace steady::cuda::ptx {

/// Waits until `threads` threads, a multiple of 32, have come to named barrier `id`. Barrier 0 is
/// __syncthreads.
__device__ inline void sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// The same; whether it was true for any of them.
__device__ inline bool sync_any(int id, int threads, bool predicate) {
  int any;
  asm volatile(
      "{.reg .pred in, out; setp.ne.b32 in, %1, 0; barrier.cta.red.or.pred out, %2, %3, in;\n"
      "selp.b32 %0, 1, 0, out;}"
      : "=r"(any)
      : "r"(static_cast<int>(predicate)), "r"(id), "r"(threads)
      : "memory");
  return any != 0;
}

/// `arrivals` complete a phase.
__device__ inline void init_barrier(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}

/// Barriers that this thread has initialised are there for all who meet it afterwards.
__device__ inline void fence_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/// What this thread wrote before is seen by who waits for the phase.
__device__ inline void arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}

/// Arrives when the asynchronous copies that this thread has begun are done.
__device__ inline void arrive_when_copied(uint64_t* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier))
               : "memory");
}

/// Waits until the phase of that parity is complete. A new barrier is in phase 0; waiting for
/// parity 1 returns at once.
__device__ inline void wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over;\n"
      "bra again;\n"
      "over:\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

/// Whether that phase is complete. If so, what wait() orders is ordered.
__device__ inline bool is_over(uint64_t* barrier, uint32_t parity) {
  int done;
  asm volatile(
      "{.reg .pred done; mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "selp.b32 %0, 1, 0, done;}"
      : "=r"(done)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return done != 0;
}

/// What this thread wrote to shared memory, or has seen that others wrote, becomes visible to wgmma
/// and to bulk copies.
__device__ inline void fence_shared_writes() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// From so many registers a thread of this warpgroup to so many, in steps of eight.
template <int kFrom, int kTo>
__device__ inline void change_registers() {
  if constexpr (kTo < kFrom) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kTo));
  if constexpr (kTo > kFrom) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kTo));
}

}  // namespace steady::cuda::ptx
