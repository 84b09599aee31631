// SPDX-License-Identifier: Apache-2.0
// src/cuda/ptx/grid.cuh, for the host.
#pragma once

#include "cuda/ptx/barrier.cuh"

namespace steady::cuda::ptx {

inline int block_number() { return static_cast<int>(blockIdx.x); }
inline int thread_number() { return static_cast<int>(threadIdx.x); }
inline uint32_t zero() { return 0; }
inline void keep_order() {}
inline void wait_for_earlier_grids() { emulated::earlier_grids.wait(); }
inline void let_next_grid_begin() {}

}  // namespace steady::cuda::ptx
