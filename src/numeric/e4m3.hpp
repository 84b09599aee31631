// SPDX-License-Identifier: Apache-2.0
// OCP e4m3 bytes (largest value 448, no infinity, 0x7f and 0xff are NaN) to float and back.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "numeric/host_device.hpp"

namespace steady {

inline constexpr float kE4m3Max = 448.0f;
inline constexpr uint8_t kE4m3Nan = 0x7f;

/// Exact. Moving exponent and mantissa to float's place is off by 2^120, the difference of the
/// biases; one multiplication mends that for normal and subnormal values alike.
STEADY_HOST_DEVICE inline float float_from_e4m3(uint8_t byte) {
  if ((byte & 0x7fu) == kE4m3Nan) return std::numeric_limits<float>::quiet_NaN();
  const uint32_t sign = static_cast<uint32_t>(byte & 0x80u) << 24;
  const uint32_t magnitude = static_cast<uint32_t>(byte & 0x7fu) << 20;
  return std::bit_cast<float>(sign | magnitude) * 0x1p120f;
}

/// Rounds to nearest, ties to even, and saturates at ±448; NaN gives NaN.
inline uint8_t e4m3_from_float(float value) {
  const uint8_t sign = std::signbit(value) ? 0x80 : 0;
  if (std::isnan(value)) return sign | kE4m3Nan;
  const float magnitude = std::fmin(std::fabs(value), kE4m3Max);
  // The grid's step is 2^(exponent - 3), and 2^-9 below the smallest normal value 2^-6.
  const int exponent = magnitude < 0x1p-6f ? -6 : std::ilogb(magnitude);
  const int steps = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 3 - exponent)));
  // `steps` counts 8 … 16 in a binade; a carry to 16 moves into the exponent field by itself.
  return static_cast<uint8_t>(sign | (((exponent + 6) << 3) + steps));
}

}  // namespace steady
