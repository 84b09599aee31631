// SPDX-License-Identifier: Apache-2.0
// What a block asks of its grid, grids of each other, and both of the compiler, one instruction a
// function at most (sm_90).
#pragma once

#include <cstdint>

#include "cuda/ptx/barrier.cuh"

namespace steady::cuda::ptx {

/// blockIdx.x, asked for anew each time: who keeps it in a register has one less.
__device__ inline int block_number() {
  uint32_t number;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(number));
  __builtin_assume(number < 1u << 31);  // as in thread_number()
  return static_cast<int>(number);
}

/// threadIdx.x, in the same way. What is made from it is not kept from one turn of a loop to the
/// next.
__device__ inline int thread_number() {
  uint32_t number;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(number));
  __builtin_assume(number < 1024);  // so that shares of it need not look at its sign
  return static_cast<int>(number);
}

/// blockIdx.z of a grid of two dimensions: the compiler does not know that it is zero.
__device__ inline uint32_t zero() {
  uint32_t number;
  asm volatile("mov.u32 %0, %%ctaid.z;" : "=r"(number));
  return number;
}

/// Keeps the compiler from moving loads and stores across.
__device__ inline void keep_order() { asm volatile("" ::: "memory"); }

/// Waits until all that was launched before in the stream is over and seen. Where the launch
/// allowed to begin earlier, each thread waits before it touches what earlier grids may still read
/// or write.
__device__ inline void wait_for_earlier_grids() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

/// The next grid of the stream may begin, if its launch allows it.
__device__ inline void let_next_grid_begin() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

}  // namespace steady::cuda::ptx
