// SPDX-License-Identifier: Apache-2.0
// e4m3 bytes and a ue8m0 scale in, bf16 out, exactly: integer moves and two bf16 products, so that
// no FP8 hardware is needed.
#pragma once

#include <cstdint>

#include "cuda/ptx/mma.cuh"

namespace steady::cuda {

/// A scale byte as two equal bf16: 2^(byte - 127), NaN for 255.
__device__ inline uint32_t bf16x2_from_ue8m0(uint32_t byte) {
  const uint32_t bits = byte == 0 ? 0x0040u : byte == 255 ? 0x7fc0u : byte << 7;
  return bits | bits << 16;
}

/// Two e4m3 bytes, each in the upper half of 16 bits, as unscaled bf16. Moving exponent and
/// mantissa to their places leaves a value 2^120 too small, the difference of the biases; the
/// product mends that, subnormals included.
__device__ inline uint32_t bf16x2_from_e4m3(uint32_t bytes) {
  constexpr uint32_t kTwoTo120 = 0x7b807b80u;
  const uint32_t bits = (bytes & 0x80008000u) | ((bytes >> 4) & 0x07f007f0u);
  return ptx::multiply_bf16x2(bits, kTwoTo120);
}

/// NaN bytes (0x7f, 0xff) would have come out as ±480.
__device__ inline uint32_t keep_nan(uint32_t values, uint32_t bytes) {
  if ((bytes & 0x7f00u) == 0x7f00u) values |= 0x7fc0u;
  if ((bytes & 0x7f000000u) == 0x7f000000u) values |= 0x7fc00000u;
  return values;
}

/// Four e4m3 bytes, lowest address first, to four bf16. The scale comes as a second product,
/// because 2^120 times the larger half of all scales leaves bf16's range.
__device__ inline uint2 dequantise_four(uint32_t bytes, uint32_t scale) {
  const uint32_t low = __byte_perm(bytes, 0, 0x1404), high = __byte_perm(bytes, 0, 0x3424);
  uint2 values = {ptx::multiply_bf16x2(bf16x2_from_e4m3(low), scale),
                  ptx::multiply_bf16x2(bf16x2_from_e4m3(high), scale)};
  const bool any_nan = (((bytes & 0x7f7f7f7fu) + 0x01010101u) & 0x80808080u) != 0;
  if (any_nan) values = {keep_nan(values.x, low), keep_nan(values.y, high)};
  return values;
}

}  // namespace steady::cuda
