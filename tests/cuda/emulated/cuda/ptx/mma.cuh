// SPDX-License-Identifier: Apache-2.0
// src/cuda/ptx/mma.cuh, for the host.
#pragma once

#include "cuda/ptx/copy.cuh"
#include "numeric/bf16.hpp"

namespace steady::cuda::ptx {

inline float half_of(uint32_t pair, int index) {
  return float_from_bf16(static_cast<uint16_t>(pair >> (16 * index)));
}

inline uint32_t pair_of(uint16_t low, uint16_t high) {
  return low | static_cast<uint32_t>(high) << 16;
}

/// Lane l gets columns 2 (l % 4) and the next of row l / 4 of each matrix, or of its transpose.
inline void load(uint32_t (&registers)[4], const void* row, bool transposed) {
  emulated::exchange(row, [&](const auto& of_lane) {
    const int r = emulated::lane() / 4, c = emulated::lane() % 4 * 2;
    for (int matrix = 0; matrix < 4; ++matrix) {
      const auto element = [&](int i, int j) {
        return static_cast<const uint16_t*>(of_lane(8 * matrix + i))[j];
      };
      registers[matrix] = transposed ? pair_of(element(c, r), element(c + 1, r))
                                     : pair_of(element(r, c), element(r, c + 1));
    }
    return 0;
  });
}

inline void load_matrices(uint32_t (&registers)[4], const void* row) {
  load(registers, row, false);
}
inline void load_matrices_transposed(uint32_t (&registers)[4], const void* row) {
  load(registers, row, true);
}

inline void store_matrices(void* row, uint32_t m0, uint32_t m1, uint32_t m2, uint32_t m3) {
  const uint32_t registers[] = {m0, m1, m2, m3};
  emulated::exchange(row, [&](const auto& of_lane) {
    const int r = emulated::lane() / 4, c = emulated::lane() % 4 * 2;
    for (int matrix = 0; matrix < 4; ++matrix) {
      for (int e = 0; e < 2; ++e) {
        static_cast<uint16_t*>(of_lane(8 * matrix + r))[c + e] =
            static_cast<uint16_t>(registers[matrix] >> (16 * e));
      }
    }
    return 0;
  });
}

/// a: row l / 4 (+ 8 in the odd registers), columns 2 (l % 4) (+ 8 in the later two). b: column l /
/// 4, the same rows.
inline void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Fragments {
    uint32_t a[4], b[2];
  };
  emulated::exchange(Fragments{{a[0], a[1], a[2], a[3]}, {b0, b1}}, [&](const auto& of_lane) {
    float left[16][16], right[16][8];
    for (int lane = 0; lane < emulated::kWarpThreads; ++lane) {
      const Fragments theirs = of_lane(lane);
      for (int e = 0; e < 2; ++e) {
        for (int i = 0; i < 4; ++i)
          left[lane / 4 + i % 2 * 8][lane % 4 * 2 + i / 2 * 8 + e] = half_of(theirs.a[i], e);
        for (int i = 0; i < 2; ++i)
          right[lane % 4 * 2 + i * 8 + e][lane / 4] = half_of(theirs.b[i], e);
      }
    }
    for (int i = 0; i < 4; ++i) {
      const int row = emulated::lane() / 4 + i / 2 * 8, column = emulated::lane() % 4 * 2 + i % 2;
      for (int k = 0; k < 16; ++k) sums[i] += left[row][k] * right[k][column];
    }
    return 0;
  });
}

inline float exp2_approximate(float x) { return std::exp2(x); }

inline uint32_t multiply_bf16x2(uint32_t a, uint32_t b) {
  return pair_of(bf16_from_float(half_of(a, 0) * half_of(b, 0)),
                 bf16_from_float(half_of(a, 1) * half_of(b, 1)));
}

template <int kFirst, int kSecond>
uint32_t extend_bytes(uint32_t bytes) {
  const auto extended = [&](int i) {
    return static_cast<uint16_t>(static_cast<int8_t>(bytes >> (8 * i)));
  };
  return pair_of(extended(kFirst), extended(kSecond));
}

}  // namespace steady::cuda::ptx
