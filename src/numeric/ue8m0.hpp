// SPDX-License-Identifier: Apache-2.0
// ue8m0 scale bytes: byte b stands for 2^(b - 127), 255 for NaN.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "numeric/e4m3.hpp"
#include "numeric/host_device.hpp"

namespace steady {

/// Exact, the subnormal 2^-127 of byte 0 included.
STEADY_HOST_DEVICE inline float float_from_ue8m0(uint8_t byte) {
  if (byte == 0) return 0x1p-127f;
  if (byte == 255) return std::bit_cast<float>(0x7fc00000u);
  return std::bit_cast<float>(static_cast<uint32_t>(byte) << 23);
}

/// DeepSeek-V4's scale of a group whose largest magnitude is `amax`: 2^ceil(log2(max(amax, 1e-4) /
/// 448)), taken from the bits as its reference does, since log2f can be one off next to a power of
/// two.
inline uint8_t ue8m0_for_amax(float amax) {
  const uint32_t bits = std::bit_cast<uint32_t>(std::max(amax, 1e-4f) * (1.0f / kE4m3Max));
  const uint32_t exponent = (bits >> 23) + ((bits & 0x7fffffu) != 0 ? 1 : 0);
  return static_cast<uint8_t>(std::min(exponent, 254u));
}

}  // namespace steady
