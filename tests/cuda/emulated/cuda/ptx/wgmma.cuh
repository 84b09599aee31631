// SPDX-License-Identifier: Apache-2.0
// src/cuda/ptx/wgmma.cuh, for the host: a product is over when it has begun, and each thread makes
// its own sums from shared memory.
#pragma once

#include "cuda/ptx/barrier.cuh"

namespace steady::cuda::ptx {

struct Operand {
  uintptr_t address;
  uint32_t block_bytes;
};
inline Operand describe_operand(const void* shared, uint32_t block_bytes = 16) {
  return {reinterpret_cast<uintptr_t>(shared), block_bytes};
}
inline Operand advance(const Operand& operand, uint32_t bytes) {
  return {operand.address + bytes, operand.block_bytes};
}
inline Operand uniform(const Operand& operand) { return operand; }
inline void begin_products() {}
inline void commit_products() {}
template <int>
void wait_products() {
  emulated::sync_warp();
}
template <int kCount>
void pin(float (&)[kCount]) {}

inline constexpr int kEightLines = 1024;

/// Element `along` of line `line`: lines of 128 bytes, eight of them after another, with bits 4 to
/// 6 of the address swizzled by bits 7 to 9.
inline float element(const Operand& operand, int line, int along, int eight_bytes = kEightLines) {
  constexpr int kLine = 64;
  const uintptr_t address = operand.address + along / kLine * operand.block_bytes +
                            static_cast<uintptr_t>(line / 8) * eight_bytes + line % 8 * 128 +
                            along % kLine * sizeof(uint16_t);
  return float_from_bf16(*reinterpret_cast<const uint16_t*>(address ^ (address >> 7 & 7) << 4));
}

/// sums[i] += the product of row `i`'s elements, which `a(row, k)` and `b(k, column)` give. The
/// sixteen have no order: in twice a float's digits those of tests come to the same in any.
template <int kCount, class A, class B>
void add_products(float (&sums)[kCount], bool add, const A& a, const B& b) {
  const int thread = static_cast<int>(threadIdx.x % 128), lane = thread % 32;
  for (int i = 0; i < kCount; ++i) {
    const int row = thread / 32 * 16 + lane / 4 + i / 2 % 2 * 8;
    const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    double sum = add ? sums[i] : 0.0;
    for (int k = 0; k < 16; ++k) sum += double{a(row, k)} * b(k, column);
    sums[i] = static_cast<float>(sum);
  }
}

template <int kColumns, bool kTransposedB = false, int kEightBytes = kEightLines,
          bool kTransposedA = false>
void multiply_add(float (&sums)[kColumns / 2], const Operand& a, const Operand& b, bool add) {
  add_products(
      sums, add,
      [&](int row, int k) { return kTransposedA ? element(a, k, row) : element(a, row, k); },
      [&](int k, int column) {
        return kTransposedB ? element(b, k, column, kEightBytes)
                            : element(b, column, k, kEightBytes);
      });
}

struct Fragment {
  uint32_t at[4];
};
inline void keep(const Fragment&) {}
inline void pin(Fragment&) {}
template <int kColumns, bool kTransposedB = false, int kEightBytes = kEightLines>
void multiply_add(float (&sums)[kColumns / 2], const Fragment& a, const Operand& b, bool add) {
  struct Quad {
    Fragment lanes[4];
  };
  const Quad quad = emulated::exchange(a, [](const auto& of_lane) {
    const int first = emulated::lane() & ~3;
    return Quad{{of_lane(first), of_lane(first + 1), of_lane(first + 2), of_lane(first + 3)}};
  });
  add_products(
      sums, add,
      [&](int row, int k) {
        const uint32_t pair = quad.lanes[k / 2 % 4].at[k / 8 * 2 + row / 8 % 2];
        return float_from_bf16(static_cast<uint16_t>(pair >> 16 * (k % 2)));
      },
      [&](int k, int column) {
        return kTransposedB ? element(b, k, column, kEightBytes)
                            : element(b, column, k, kEightBytes);
      });
}

}  // namespace steady::cuda::ptx
