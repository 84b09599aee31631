// SPDX-License-Identifier: Apache-2.0
// Tensor-core fragments and products, one instruction a function (sm_80 and later).
#pragma once

#include <cstdint>

#include "cuda/ptx/copy.cuh"

namespace steady::cuda::ptx {

/// Four 8×8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline void load_matrices(uint32_t (&registers)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(shared_address(row))
               : "memory");
}

/// The same, each matrix transposed.
__device__ inline void load_matrices_transposed(uint32_t (&registers)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(shared_address(row))
               : "memory");
}

/// Stores four 8×8 matrices of 16-bit elements: lane l has columns 2 (l % 4) and the next of row l
/// / 4 of each, and gives the address of row l % 8 of matrix l / 8 (sm_90).
__device__ inline void store_matrices(void* row, uint32_t m0, uint32_t m1, uint32_t m2,
                                      uint32_t m3) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
      "r"(m0), "r"(m1), "r"(m2), "r"(m3)
      : "memory");
}

/// sums[16×8] += a[16×16] * b[16×8], bf16 with fp32 sums.
__device__ inline void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// 2^x to 2 ulp; 0 for -inf and where it is no normal number.
__device__ inline float exp2_approximate(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

/// a * b for two bf16 each, rounded once, subnormals kept.
__device__ inline uint32_t multiply_bf16x2(uint32_t a, uint32_t b) {
  uint32_t result;
  asm("{.reg .b32 zero; mov.b32 zero, 0x80008000; fma.rn.bf16x2 %0, %1, %2, zero;}"
      : "=r"(result)
      : "r"(a), "r"(b));
  return result;
}

/// Two bytes of a word, each with its sign in eight bits more; the first one in the lower half.
template <int kFirst, int kSecond>
__device__ inline uint32_t extend_bytes(uint32_t bytes) {
  constexpr int kSign = 8;
  uint32_t result;
  asm("prmt.b32 %0, %1, 0, %2;"
      : "=r"(result)
      : "r"(bytes), "n"(kFirst | (kSign | kFirst) << 4 | kSecond << 8 | (kSign | kSecond) << 12));
  return result;
}

}  // namespace steady::cuda::ptx
