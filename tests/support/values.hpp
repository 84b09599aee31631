// SPDX-License-Identifier: Apache-2.0
// Bit patterns go in, the numbers that they mean come out, written from the formats' definitions
// and from nothing in the library.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace steady::test {

// OCP E4M3FN: bias 7, no infinity, NaN is all ones below the sign.
inline float e4m3_value(uint8_t bits) {
  const int exponent = (bits >> 3) & 15;
  const int mantissa = bits & 7;
  if ((bits & 0x7F) == 0x7F) return std::numeric_limits<float>::quiet_NaN();
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(mantissa), -9)
                              : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

// What an e4m3 code under a ue8m0 scale stands for: a float, infinite where a float ends.
inline float scaled_value(uint8_t e4m3, uint8_t scale) {
  if (scale == 255) return std::numeric_limits<float>::quiet_NaN();
  return std::ldexp(e4m3_value(e4m3), scale - 127);
}

inline float bf16_value(uint16_t bits) {
  const int exponent = (bits >> 7) & 255;
  const int mantissa = bits & 127;
  float magnitude = 0;
  if (exponent == 255) {
    magnitude = mantissa == 0 ? std::numeric_limits<float>::infinity()
                              : std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(mantissa), -133);
  } else {
    magnitude = std::ldexp(static_cast<float>(128 + mantissa), exponent - 134);
  }
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

// The bf16 nearest to a finite value, ties to even.
inline uint16_t nearest_bf16(double value) {
  const double magnitude = std::fabs(value);
  const int ulp_exponent = magnitude < 0x1p-126 ? -133 : std::ilogb(magnitude) - 7;
  // Counted in ulps, the value's integer part is the bit pattern but for the exponent's offset.
  const double ulps = std::nearbyint(std::ldexp(magnitude, -ulp_exponent));
  const int bits = std::min(static_cast<int>(ulps) + (ulp_exponent + 133) * 128, 0x7F80);
  return static_cast<uint16_t>((std::signbit(value) ? 0x8000 : 0) | bits);
}

}  // namespace steady::test
