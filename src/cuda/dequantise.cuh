// SPDX-License-Identifier: Apache-2.0
// e4m3 bytes and a ue8m0 scale in, bf16 out, exact wherever bf16 has the value: integer moves and
// one or two bf16 products, so that no FP8 hardware is needed.
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

/// `kWords` words of four e4m3 bytes each, lowest address first, to twice as many words of bf16.
/// The scale comes as a second product, because 2^120 times the larger half of all scales leaves
/// bf16's range.
template <int kWords>
__device__ inline void dequantise(const uint32_t (&bytes)[kWords], uint32_t scale_byte,
                                  uint32_t (&values)[2 * kWords]) {
  const auto pair = [&](int i) {  // the i-th two bytes, each in the upper half of 16 bits
    return __byte_perm(bytes[i / 2], 0, i % 2 == 0 ? 0x1404 : 0x3424);
  };
  const uint32_t scale = bf16x2_from_ue8m0(scale_byte);
#pragma unroll
  for (int i = 0; i < 2 * kWords; ++i)
    values[i] = ptx::multiply_bf16x2(bf16x2_from_e4m3(pair(i)), scale);
  uint32_t carries = 0;  // into the sign, from NaN alone
#pragma unroll
  for (int i = 0; i < kWords; ++i) carries |= (bytes[i] & 0x7f7f7f7fu) + 0x01010101u;
  if ((carries & 0x80808080u) == 0) return;
#pragma unroll
  for (int i = 0; i < 2 * kWords; ++i) values[i] = keep_nan(values[i], pair(i));
}

/// Sixteen bytes to two chunks of eight bf16.
__device__ inline void dequantise(const uint4& bytes, uint32_t scale_byte, uint4* first,
                                  uint4* second) {
  const uint32_t words[] = {bytes.x, bytes.y, bytes.z, bytes.w};
  uint32_t values[8];
  dequantise(words, scale_byte, values);
  *first = {values[0], values[1], values[2], values[3]};
  *second = {values[4], values[5], values[6], values[7]};
}

}  // namespace steady::cuda
