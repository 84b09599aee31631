// SPDX-License-Identifier: Apache-2.0
// Products of a warpgroup on operands in shared memory, one instruction a function (sm_90a).
#pragma once

#include <cstdint>

#include "cuda/ptx/copy.cuh"

namespace steady::cuda::ptx {

/// Says where an operand lies: lines of 128 bytes, eight lines after another, their 16-byte chunks
/// swizzled by chunk ^ line % 8, and the block of eight lines aligned to 1,024 bytes. A transposed
/// operand of more than 64 columns goes on `block_bytes` later.
__device__ inline uint32_t describe_operand(const void* shared, uint32_t block_bytes = 16) {
  return block_bytes >> 4 << 16 | (shared_address(shared) & 0x3ffff) >> 4;
}
/// The upper half of all such descriptions: a swizzle of 128 bytes, and 1,024 for eight lines.
inline constexpr uint32_t kOperands = uint32_t{1} << 30 | 1024 >> 4;

/// The operand that begins `bytes` further on.
__device__ inline uint32_t advance(uint32_t operand, uint32_t bytes) {
  return operand + (bytes >> 4);
}

/// `operand`, which all lanes have, in a register of the warp, where products want it.
__device__ inline uint32_t uniform(uint32_t operand) { return __shfl_sync(~0u, operand, 0); }

/// Registers and shared memory that the next products use are ready.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

/// The products since the last call are a group.
__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/// Waits until at most `kGroups` groups are under way.
template <int kGroups>
__device__ inline void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
}

/// Keeps the compiler from moving uses of sums across asynchronous products.
template <int kCount>
__device__ inline void pin(float (&sums)[kCount]) {
#pragma unroll
  for (float& sum : sums) asm volatile("" : "+f"(sum)::"memory");
}

/// sums[64 × 64] = a[64 × 16] · b[64 × 16]ᵀ + sums, or without the old sums if !add. Both operands
/// are bf16, and their lines run along the sixteen. Of its warp's sixteen rows a lane has an upper
/// one, lane / 4, and a lower one eight further on, and of columns 8 j + 2 (lane % 4) and the next:
/// sums[4 j + 2 (lower row) + odd column].
__device__ inline void multiply_add(float (&sums)[32], uint32_t a, uint32_t b, bool add) {
  asm volatile(
      "{.reg .pred add; .reg .b64 a, b; setp.ne.b32 add, %34, 0;\n"
      "mov.b64 a, {%32, %35}; mov.b64 b, {%33, %35};\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, a, b, add, 1, 1, 0, 0;}\n"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]), "+f"(sums[4]), "+f"(sums[5]),
        "+f"(sums[6]), "+f"(sums[7]), "+f"(sums[8]), "+f"(sums[9]), "+f"(sums[10]), "+f"(sums[11]),
        "+f"(sums[12]), "+f"(sums[13]), "+f"(sums[14]), "+f"(sums[15]), "+f"(sums[16]),
        "+f"(sums[17]), "+f"(sums[18]), "+f"(sums[19]), "+f"(sums[20]), "+f"(sums[21]),
        "+f"(sums[22]), "+f"(sums[23]), "+f"(sums[24]), "+f"(sums[25]), "+f"(sums[26]),
        "+f"(sums[27]), "+f"(sums[28]), "+f"(sums[29]), "+f"(sums[30]), "+f"(sums[31])
      : "r"(a), "r"(b), "r"(static_cast<int>(add)), "n"(kOperands));
}

/// The same for kColumns lines of b, which run along the columns if kTransposed.
template <int kColumns, bool kTransposed>
__device__ inline void multiply_add(float (&sums)[kColumns / 2], uint32_t a, uint32_t b, bool add) {
  if constexpr (kColumns == 8) {
    asm volatile(
        "{.reg .pred add; .reg .b64 a, b; setp.ne.b32 add, %6, 0;\n"
        "mov.b64 a, {%4, %8}; mov.b64 b, {%5, %8};\n"
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3"
        "}, a, b, add, 1, 1, 0, %7;}\n"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a), "r"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(kTransposed)),
          "n"(kOperands));
  } else {
    static_assert(kColumns == 128, "there is no product of so many columns here");
    asm volatile(
        "{.reg .pred add; .reg .b64 a, b; setp.ne.b32 add, %66, 0;\n"
        "mov.b64 a, {%64, %68}; mov.b64 b, {%65, %68};\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
        "}, a, b, add, 1, 1, 0, %67;}\n"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]), "+f"(sums[4]), "+f"(sums[5]),
          "+f"(sums[6]), "+f"(sums[7]), "+f"(sums[8]), "+f"(sums[9]), "+f"(sums[10]),
          "+f"(sums[11]), "+f"(sums[12]), "+f"(sums[13]), "+f"(sums[14]), "+f"(sums[15]),
          "+f"(sums[16]), "+f"(sums[17]), "+f"(sums[18]), "+f"(sums[19]), "+f"(sums[20]),
          "+f"(sums[21]), "+f"(sums[22]), "+f"(sums[23]), "+f"(sums[24]), "+f"(sums[25]),
          "+f"(sums[26]), "+f"(sums[27]), "+f"(sums[28]), "+f"(sums[29]), "+f"(sums[30]),
          "+f"(sums[31]), "+f"(sums[32]), "+f"(sums[33]), "+f"(sums[34]), "+f"(sums[35]),
          "+f"(sums[36]), "+f"(sums[37]), "+f"(sums[38]), "+f"(sums[39]), "+f"(sums[40]),
          "+f"(sums[41]), "+f"(sums[42]), "+f"(sums[43]), "+f"(sums[44]), "+f"(sums[45]),
          "+f"(sums[46]), "+f"(sums[47]), "+f"(sums[48]), "+f"(sums[49]), "+f"(sums[50]),
          "+f"(sums[51]), "+f"(sums[52]), "+f"(sums[53]), "+f"(sums[54]), "+f"(sums[55]),
          "+f"(sums[56]), "+f"(sums[57]), "+f"(sums[58]), "+f"(sums[59]), "+f"(sums[60]),
          "+f"(sums[61]), "+f"(sums[62]), "+f"(sums[63])
        : "r"(a), "r"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(kTransposed)),
          "n"(kOperands));
  }
}

/// A lane's share of a left operand: elements 2 (lane % 4) and the next of its upper row and of its
/// lower one, then those eight further on.
struct Fragment {
  uint32_t at[4];
};

/// The same with `a` in registers. The product may read them until it is over, which the compiler
/// does not know.
template <int kColumns, bool kTransposed>
__device__ inline void multiply_add(float (&sums)[kColumns / 2], const Fragment& a, uint32_t b,
                                    bool add) {
  if constexpr (kColumns == 8) {
    asm volatile(
        "{.reg .pred add; .reg .b64 b; setp.ne.b32 add, %9, 0;\n"
        "mov.b64 b, {%8, %11};\n"
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3"
        "}, {%4, %5, %6, %7}, b, add, 1, 1, %10;}\n"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a.at[0]), "r"(a.at[1]), "r"(a.at[2]), "r"(a.at[3]), "r"(b),
          "r"(static_cast<int>(add)), "n"(static_cast<int>(kTransposed)), "n"(kOperands));
  } else {
    static_assert(kColumns == 128, "there is no product of so many columns here");
    asm volatile(
        "{.reg .pred add; .reg .b64 b; setp.ne.b32 add, %69, 0;\n"
        "mov.b64 b, {%68, %71};\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
        "}, {%64, %65, %66, %67}, b, add, 1, 1, %70;}\n"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]), "+f"(sums[4]), "+f"(sums[5]),
          "+f"(sums[6]), "+f"(sums[7]), "+f"(sums[8]), "+f"(sums[9]), "+f"(sums[10]),
          "+f"(sums[11]), "+f"(sums[12]), "+f"(sums[13]), "+f"(sums[14]), "+f"(sums[15]),
          "+f"(sums[16]), "+f"(sums[17]), "+f"(sums[18]), "+f"(sums[19]), "+f"(sums[20]),
          "+f"(sums[21]), "+f"(sums[22]), "+f"(sums[23]), "+f"(sums[24]), "+f"(sums[25]),
          "+f"(sums[26]), "+f"(sums[27]), "+f"(sums[28]), "+f"(sums[29]), "+f"(sums[30]),
          "+f"(sums[31]), "+f"(sums[32]), "+f"(sums[33]), "+f"(sums[34]), "+f"(sums[35]),
          "+f"(sums[36]), "+f"(sums[37]), "+f"(sums[38]), "+f"(sums[39]), "+f"(sums[40]),
          "+f"(sums[41]), "+f"(sums[42]), "+f"(sums[43]), "+f"(sums[44]), "+f"(sums[45]),
          "+f"(sums[46]), "+f"(sums[47]), "+f"(sums[48]), "+f"(sums[49]), "+f"(sums[50]),
          "+f"(sums[51]), "+f"(sums[52]), "+f"(sums[53]), "+f"(sums[54]), "+f"(sums[55]),
          "+f"(sums[56]), "+f"(sums[57]), "+f"(sums[58]), "+f"(sums[59]), "+f"(sums[60]),
          "+f"(sums[61]), "+f"(sums[62]), "+f"(sums[63])
        : "r"(a.at[0]), "r"(a.at[1]), "r"(a.at[2]), "r"(a.at[3]), "r"(b),
          "r"(static_cast<int>(add)), "n"(static_cast<int>(kTransposed)), "n"(kOperands));
  }
}

}  // namespace steady::cuda::ptx
