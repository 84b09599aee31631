// SPDX-License-Identifier: Apache-2.0
// Products of a warpgroup on operands in shared memory, one instruction a function (sm_90a).
#pragma once

#include <cstdint>

#include "cuda/ptx/copy.cuh"

namespace steady::cuda::ptx {

/// Says where an operand lies: rows of 128 bytes, eight rows after another, their 16-byte chunks
/// swizzled by chunk ^ row % 8, and the block of eight rows aligned to 1,024 bytes.
__device__ inline uint64_t describe_operand(const void* shared) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = 1024 >> 4, kUnused = 1;
  return kSwizzle128 | kEightRows << 32 | kUnused << 16 |
         static_cast<uint64_t>((shared_address(shared) & 0x3ffff) >> 4);
}

/// The operand that begins `bytes` further on.
__device__ inline uint64_t advance(uint64_t operand, uint32_t bytes) {
  return operand + (bytes >> 4);
}

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

/// `value`, of which the compiler knows nothing.
__device__ inline int opaque(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

/// Tells the compiler that their values up to here do not matter, so that they took no registers.
template <int kCount>
__device__ inline void forget(float (&sums)[kCount]) {
#pragma unroll
  for (float& sum : sums) asm volatile("" : "=f"(sum));
}

/// What multiply_add() does, for more than 24 columns.
template <int kColumns, bool kTransposed>
__device__ inline void multiply_add_many(float (&sums)[kColumns / 2], uint64_t a, uint64_t b,
                                         bool add) {
  if constexpr (kColumns == 32) {
    asm volatile(
        "{.reg .pred add; setp.ne.b32 add, %18, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, "
        "%8, %9, %10, %11, %12, %13, %14, %15"
        "}, %16, %17, add, 1, 1, %19, 0;}\n"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]), "+f"(sums[4]), "+f"(sums[5]),
          "+f"(sums[6]), "+f"(sums[7]), "+f"(sums[8]), "+f"(sums[9]), "+f"(sums[10]),
          "+f"(sums[11]), "+f"(sums[12]), "+f"(sums[13]), "+f"(sums[14]), "+f"(sums[15])
        : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(kTransposed)));
  } else if constexpr (kColumns == 48) {
    asm volatile(
        "{.reg .pred add; setp.ne.b32 add, %26, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n48k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, "
        "%8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23"
        "}, %24, %25, add, 1, 1, %27, 0;}\n"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]), "+f"(sums[4]), "+f"(sums[5]),
          "+f"(sums[6]), "+f"(sums[7]), "+f"(sums[8]), "+f"(sums[9]), "+f"(sums[10]),
          "+f"(sums[11]), "+f"(sums[12]), "+f"(sums[13]), "+f"(sums[14]), "+f"(sums[15]),
          "+f"(sums[16]), "+f"(sums[17]), "+f"(sums[18]), "+f"(sums[19]), "+f"(sums[20]),
          "+f"(sums[21]), "+f"(sums[22]), "+f"(sums[23])
        : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(kTransposed)));
  } else if constexpr (kColumns == 64) {
    asm volatile(
        "{.reg .pred add; setp.ne.b32 add, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, "
        "%8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, "
        "%24, %25, %26, %27, %28, %29, %30, %31"
        "}, %32, %33, add, 1, 1, %35, 0;}\n"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]), "+f"(sums[4]), "+f"(sums[5]),
          "+f"(sums[6]), "+f"(sums[7]), "+f"(sums[8]), "+f"(sums[9]), "+f"(sums[10]),
          "+f"(sums[11]), "+f"(sums[12]), "+f"(sums[13]), "+f"(sums[14]), "+f"(sums[15]),
          "+f"(sums[16]), "+f"(sums[17]), "+f"(sums[18]), "+f"(sums[19]), "+f"(sums[20]),
          "+f"(sums[21]), "+f"(sums[22]), "+f"(sums[23]), "+f"(sums[24]), "+f"(sums[25]),
          "+f"(sums[26]), "+f"(sums[27]), "+f"(sums[28]), "+f"(sums[29]), "+f"(sums[30]),
          "+f"(sums[31])
        : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(kTransposed)));
  } else {
    static_assert(kColumns == 64, "there is no product of so many columns here");
  }
}

/// sums[64 × kColumns] = a[64 × 16] · b[16 × kColumns] + sums, or without the old sums if !add.
/// Both operands are bf16. b's vectors run along the sixteen; a's do so too, or along the 64 if
/// kTransposed. A lane has rows lane / 4 and lane / 4 + 8 of its warp's sixteen, columns
/// 8 j + 2 (lane % 4) and the next: sums[4 j + 2 (row >= 8) + odd column].
template <int kColumns, bool kTransposed>
__device__ inline void multiply_add(float (&sums)[kColumns / 2], uint64_t a, uint64_t b, bool add) {
  if constexpr (kColumns == 8) {
    asm volatile(
        "{.reg .pred add; setp.ne.b32 add, %6, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3"
        "}, %4, %5, add, 1, 1, %7, 0;}\n"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(kTransposed)));
  } else if constexpr (kColumns == 16) {
    asm volatile(
        "{.reg .pred add; setp.ne.b32 add, %10, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7"
        "}, %8, %9, add, 1, 1, %11, 0;}\n"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]), "+f"(sums[4]), "+f"(sums[5]),
          "+f"(sums[6]), "+f"(sums[7])
        : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(kTransposed)));
  } else if constexpr (kColumns == 24) {
    asm volatile(
        "{.reg .pred add; setp.ne.b32 add, %14, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n24k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, "
        "%8, %9, %10, %11"
        "}, %12, %13, add, 1, 1, %15, 0;}\n"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]), "+f"(sums[4]), "+f"(sums[5]),
          "+f"(sums[6]), "+f"(sums[7]), "+f"(sums[8]), "+f"(sums[9]), "+f"(sums[10]), "+f"(sums[11])
        : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(kTransposed)));
  } else {
    multiply_add_many<kColumns, kTransposed>(sums, a, b, add);
  }
}

}  // namespace steady::cuda::ptx
