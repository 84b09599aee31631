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
/// The upper half of such descriptions: a swizzle of 128 bytes, and from eight lines to the next.
constexpr uint32_t upper_half(int eight_bytes) { return uint32_t{1} << 30 | eight_bytes >> 4; }
/// Where nothing lies between them.
inline constexpr int kEightLines = 1024;

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

/// The lists of a product's sums, as text and as operands.
#define STEADY_TEXT_4 "%0, %1, %2, %3"
#define STEADY_TEXT_8 STEADY_TEXT_4 ", %4, %5, %6, %7"
#define STEADY_TEXT_12 STEADY_TEXT_8 ", %8, %9, %10, %11"
#define STEADY_TEXT_16 STEADY_TEXT_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define STEADY_TEXT_32 \
  STEADY_TEXT_16       \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define STEADY_TEXT_64                                                               \
  STEADY_TEXT_32                                                                     \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define STEADY_SUMS_4(i) \
  "+f"(sums[i]), "+f"(sums[(i) + 1]), "+f"(sums[(i) + 2]), "+f"(sums[(i) + 3])
#define STEADY_SUMS_8(i) STEADY_SUMS_4(i), STEADY_SUMS_4((i) + 4)
#define STEADY_SUMS_12(i) STEADY_SUMS_8(i), STEADY_SUMS_4((i) + 8)
#define STEADY_SUMS_16(i) STEADY_SUMS_8(i), STEADY_SUMS_8((i) + 8)
#define STEADY_SUMS_32(i) STEADY_SUMS_16(i), STEADY_SUMS_16((i) + 16)
#define STEADY_SUMS_64(i) STEADY_SUMS_32(i), STEADY_SUMS_32((i) + 32)

/// sums[64 × kColumns] = a[64 × 16] · b[16 × kColumns] + sums, or without the old sums if !add.
/// Operands are bf16. Lines of a run along the sixteen, or along its rows if kTransposedA; those of
/// b along the sixteen, or along its columns if kTransposedB. Of its warp's sixteen rows a lane has
/// an upper one, lane / 4, and a lower one eight further on, and of columns 8 j + 2 (lane % 4) and
/// the next: sums[4 j + 2 (lower row) + odd column]. Eight lines of b begin kEightBytes after the
/// eight before.
template <int kColumns, bool kTransposedB = false, int kEightBytes = kEightLines,
          bool kTransposedA = false>
__device__ inline void multiply_add(float (&sums)[kColumns / 2], uint32_t a, uint32_t b, bool add) {
#define STEADY_PRODUCT(columns, count, a_at, b_at, add_at, ua_at, ta_at, tb_at, ub_at)     \
  asm volatile("{.reg .pred add; .reg .b64 a, b; setp.ne.b32 add, %" #add_at               \
               ", 0;\n"                                                                    \
               "mov.b64 a, {%" #a_at ", %" #ua_at "}; mov.b64 b, {%" #b_at ", %" #ub_at    \
               "};\n"                                                                      \
               "wgmma.mma_async.sync.aligned.m64n" #columns                                \
               "k16.f32.bf16.bf16 {" STEADY_TEXT_##count "}, a, b, add, 1, 1, %" #ta_at    \
                                                         ", %" #tb_at ";}\n"               \
               : STEADY_SUMS_##count(0)                                                    \
               : "r"(a), "r"(b), "r"(static_cast<int>(add)), "n"(upper_half(kEightLines)), \
                 "n"(static_cast<int>(kTransposedA)), "n"(static_cast<int>(kTransposedB)), \
                 "n"(upper_half(kEightBytes)))
  if constexpr (kColumns == 8) {
    STEADY_PRODUCT(8, 4, 4, 5, 6, 7, 8, 9, 10);
  } else if constexpr (kColumns == 16) {
    STEADY_PRODUCT(16, 8, 8, 9, 10, 11, 12, 13, 14);
  } else if constexpr (kColumns == 24) {
    STEADY_PRODUCT(24, 12, 12, 13, 14, 15, 16, 17, 18);
  } else if constexpr (kColumns == 32) {
    STEADY_PRODUCT(32, 16, 16, 17, 18, 19, 20, 21, 22);
  } else if constexpr (kColumns == 64) {
    STEADY_PRODUCT(64, 32, 32, 33, 34, 35, 36, 37, 38);
  } else {
    static_assert(kColumns == 128, "there is no product of so many columns here");
    STEADY_PRODUCT(128, 64, 64, 65, 66, 67, 68, 69, 70);
  }
#undef STEADY_PRODUCT
}

/// A lane's share of a left operand: elements 2 (lane % 4) and the next of its upper row and of its
/// lower one, then those eight further on.
struct Fragment {
  uint32_t at[4];
};

/// Keeps the registers of a left operand until here: products that are under way read them.
__device__ inline void keep(const Fragment& a) {
  asm volatile("" ::"r"(a.at[0]), "r"(a.at[1]), "r"(a.at[2]), "r"(a.at[3]) : "memory");
}

/// Hides from the compiler what a left operand is: if it knew, it would make a copy for each
/// product.
__device__ inline void pin(Fragment& a) {
  asm volatile("" : "+r"(a.at[0]), "+r"(a.at[1]), "+r"(a.at[2]), "+r"(a.at[3])::"memory");
}

/// The same with `a` in registers. The product may read them until it is over, which the compiler
/// does not know.
template <int kColumns, bool kTransposedB = false, int kEightBytes = kEightLines>
__device__ inline void multiply_add(float (&sums)[kColumns / 2], const Fragment& a, uint32_t b,
                                    bool add) {
#define STEADY_PRODUCT(columns, count, a0, a1, a2, a3, b_at, add_at, upper_at, tb_at)              \
  asm volatile("{.reg .pred add; .reg .b64 b; setp.ne.b32 add, %" #add_at                          \
               ", 0;\n"                                                                            \
               "mov.b64 b, {%" #b_at ", %" #upper_at                                               \
               "};\n"                                                                              \
               "wgmma.mma_async.sync.aligned.m64n" #columns                                        \
               "k16.f32.bf16.bf16 {" STEADY_TEXT_##count "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 \
                                                         "}, b, add, 1, 1, %" #tb_at ";}\n"        \
               : STEADY_SUMS_##count(0)                                                            \
               : "r"(a.at[0]), "r"(a.at[1]), "r"(a.at[2]), "r"(a.at[3]), "r"(b),                   \
                 "r"(static_cast<int>(add)), "n"(upper_half(kEightBytes)),                         \
                 "n"(static_cast<int>(kTransposedB)))
  if constexpr (kColumns == 8) {
    STEADY_PRODUCT(8, 4, 4, 5, 6, 7, 8, 9, 10, 11);
  } else if constexpr (kColumns == 16) {
    STEADY_PRODUCT(16, 8, 8, 9, 10, 11, 12, 13, 14, 15);
  } else if constexpr (kColumns == 24) {
    STEADY_PRODUCT(24, 12, 12, 13, 14, 15, 16, 17, 18, 19);
  } else {
    static_assert(kColumns == 32, "there is no product of so many columns here");
    STEADY_PRODUCT(32, 16, 16, 17, 18, 19, 20, 21, 22, 23);
  }
#undef STEADY_PRODUCT
}

#undef STEADY_TEXT_4
#undef STEADY_TEXT_8
#undef STEADY_TEXT_12
#undef STEADY_TEXT_16
#undef STEADY_TEXT_32
#undef STEADY_TEXT_64
#undef STEADY_SUMS_4
#undef STEADY_SUMS_8
#undef STEADY_SUMS_12
#undef STEADY_SUMS_16
#undef STEADY_SUMS_32
#undef STEADY_SUMS_64

}  // namespace steady::cuda::ptx
