// SPDX-License-Identifier: Apache-2.0
// bf16 bit patterns to float and back.
#pragma once

#include <bit>
#include <cstdint>

#include "numeric/host_device.hpp"

namespace steady {

STEADY_HOST_DEVICE inline float float_from_bf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

/// Rounds to nearest, ties to even; overflow gives ±inf, NaN stays NaN (quiet, sign kept).
STEADY_HOST_DEVICE inline uint16_t bf16_from_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace steady
