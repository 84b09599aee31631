// SPDX-License-Identifier: Apache-2.0
// A cached token in, its 512 values out: the definition, one value after the other.
#pragma once

#include <cstring>

#include "cpu/tokens.hpp"
#include "numeric/bf16.hpp"
#include "numeric/e4m3.hpp"
#include "numeric/ue8m0.hpp"

namespace steady::cpu {

inline void dequantise(const Token& token, float values[kHeadDim]) {
  const bool fp8 = token.format == STEADY_CACHE_FP8;
  const int nope = fp8 ? STEADY_NOPE_DIM : 0;
  for (int d = 0; d < nope; ++d) {
    values[d] =
        float_from_e4m3(token.data[d]) * float_from_ue8m0(token.scales[d / STEADY_FP8_SCALE_GROUP]);
  }
  // The bf16 values may lie at an odd address: a page may have any stride.
  uint16_t bits[kHeadDim];
  const int rest = kHeadDim - nope;
  std::memcpy(bits, token.data + nope, sizeof(uint16_t) * rest);
  for (int d = 0; d < rest; ++d) values[nope + d] = float_from_bf16(bits[d]);
}

}  // namespace steady::cpu
