// SPDX-License-Identifier: Apache-2.0
// A lane's share of a product of wgmma in: where it lies, its columns joined over the warp's rows,
// and its columns stored as rows out.
#pragma once

#include <cuda_bf16.h>

#include <type_traits>

#include "cuda/ptx/barrier.cuh"

namespace steady::cuda::sm90 {

/// Row of a lane's first sum among its warp's sixteen; the others are in this one and the eighth
/// below.
__device__ inline int row_of(int lane) { return lane / 4; }

/// Column of the first of a lane's sums in block `j` of eight; the next is beside it.
__device__ inline int column_of(int lane, int j) { return 8 * j + 2 * (lane % 4); }

/// What `of_columns` has for the lane's two columns in block `j`.
__device__ inline float2 pair_at(const float* of_columns, int lane, int j) {
  return *reinterpret_cast<const float2*>(&of_columns[column_of(lane, j)]);
}

/// Calls body(first pair, how many) for all pairs of a lane's columns, two at a time where there
/// are two.
template <int kPairs, class Body>
__device__ inline void for_each_pairs(const Body& body) {
  if constexpr (kPairs > 1) {
#pragma unroll
    for (int j = 0; j + 1 < kPairs; j += 2) body(j, std::integral_constant<int, 2>());
  }
  if constexpr (kPairs % 2 == 1) body(kPairs - 1, std::integral_constant<int, 1>());
}

/// Two sums, rounded, as columns are stored.
__device__ inline uint32_t bf16x2(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

/// Joins a value for each of `kCount` pairs of a lane's columns over the warp's rows, and writes
/// one for each column. The lanes of a column halve what is left at each step, as long as there
/// is more than one.
template <int kCount, class Join>
__device__ inline void join_rows(int lane, float (&values)[2 * kCount], const Join& join,
                                 float* out) {
  int first = 0, count = 2 * kCount;
  bool writes = true;
#pragma unroll
  for (int bit = 4; bit <= 16; bit *= 2) {
    const bool upper = (lane & bit) != 0;
    if (count % 2 == 0) {
      count /= 2;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (i >= count) break;
        const float sent = upper ? values[i] : values[i + count];
        const float kept = upper ? values[i + count] : values[i];
        const float received = __shfl_xor_sync(~0u, sent, bit);
        values[i] = upper ? join(received, kept) : join(kept, received);
      }
      first += upper ? count : 0;
    } else {
#pragma unroll
      for (int i = 0; i < 2 * kCount; ++i) {
        if (i >= count) break;
        const float received = __shfl_xor_sync(~0u, values[i], bit);
        values[i] = upper ? join(received, values[i]) : join(values[i], received);
      }
      writes = writes && !upper;
    }
  }
#pragma unroll
  for (int i = 0; i < 2 * kCount; ++i) {
    if (i < count && writes) out[column_of(lane, (first + i) / 2) + (first + i) % 2] = values[i];
  }
}

/// Stores a lane's columns as rows: `at(head, i)` is where eight values of a head go that the
/// warp's rows 8 i … 8 i + 7 hold.
template <int kCount, class At>
__device__ inline void store_transposed(int lane, const uint32_t (&values)[2 * kCount],
                                        const At& at) {
  const int matrix = lane / 8, row = lane % 8;
#pragma unroll
  for (int j = 0; j + 1 < kCount; j += 2) {
    const uint32_t four[4] = {values[2 * j], values[2 * j + 1], values[2 * j + 2],
                              values[2 * j + 3]};
    ptx::store_matrices_transposed(at(8 * (j + matrix / 2) + row, matrix % 2), four);
  }
  if constexpr (kCount % 2 == 1) {
    const uint32_t two[2] = {values[2 * kCount - 2], values[2 * kCount - 1]};
    ptx::store_matrices_transposed(at(8 * (kCount - 1) + row, matrix % 2), two);
  }
}

}  // namespace steady::cuda::sm90
