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

/// Two e4m3 bytes, sign-extended to 16 bits each, as bf16 that are 2^120 too small: exponent and
/// mantissa moved to their places, where the biases differ by 120, and the sign kept.
__device__ inline uint32_t tiny_from_e4m3(uint32_t bytes) { return bytes << 4 & 0x87f087f0u; }

/// The same, in their own size. The product mends the 2^120, subnormals included.
__device__ inline uint32_t bf16x2_from_e4m3(uint32_t bytes) {
  constexpr uint32_t kTwoTo120 = 0x7b807b80u;
  return ptx::multiply_bf16x2(tiny_from_e4m3(bytes), kTwoTo120);
}

/// Bytes 2 i and 2 i + 1 of `words`, sign-extended to 16 bits each.
template <int kWords>
__device__ inline uint32_t pair_of(const uint32_t (&words)[kWords], int i) {
  return i % 2 == 0 ? ptx::extend_bytes<0, 1>(words[i / 2]) : ptx::extend_bytes<2, 3>(words[i / 2]);
}

/// Looks for NaN (0x7f, 0xff) among the bytes of words.
class NanFinder {
 public:
  __device__ void see(uint32_t bytes) { carries_ |= (bytes & 0x7f7f7f7fu) + 0x01010101u; }
  __device__ bool found() const { return (carries_ & 0x80808080u) != 0; }

 private:
  uint32_t carries_ = 0;  // into the sign of a byte, from NaN alone
};

/// NaN bytes (0x7f, 0xff) would have come out as ±480.
__device__ inline uint32_t keep_nan(uint32_t values, uint32_t bytes) {
  if ((bytes & 0x7fu) == 0x7fu) values |= 0x7fc0u;
  if ((bytes & 0x7f0000u) == 0x7f0000u) values |= 0x7fc00000u;
  return values;
}

/// `kWords` words of four e4m3 bytes each, lowest address first, to twice as many words of bf16.
/// The scale comes as a second product, because 2^120 times the larger half of all scales leaves
/// bf16's range.
template <int kWords>
__device__ inline void dequantise(const uint32_t (&bytes)[kWords], uint32_t scale_byte,
                                  uint32_t (&values)[2 * kWords]) {
  const uint32_t scale = bf16x2_from_ue8m0(scale_byte);
#pragma unroll
  for (int i = 0; i < 2 * kWords; ++i)
    values[i] = ptx::multiply_bf16x2(bf16x2_from_e4m3(pair_of(bytes, i)), scale);
  NanFinder nan;
#pragma unroll
  for (int i = 0; i < kWords; ++i) nan.see(bytes[i]);
  if (!nan.found()) return;
#pragma unroll
  for (int i = 0; i < 2 * kWords; ++i) values[i] = keep_nan(values[i], pair_of(bytes, i));
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

/// The common case, in fewer steps: no NaN among the bytes, and scales so small that 2^120 times
/// each is still a bf16, as they are for any cache whose values stay below 2^16.
namespace plain {

/// 2^120 times a scale, as two equal bf16.
__device__ inline uint32_t factor(uint32_t scale_byte) {
  return scale_byte * 0x00800080u + 0x3c003c00u;
}

/// Not zero if one of four scale bytes is above 134, too large for that.
__device__ inline uint32_t large_scales(uint32_t bytes) {
  return ((bytes & 0x7f7f7f7fu) + 0x79797979u) & bytes & 0x80808080u;
}

/// Bytes 0 and 2 of a word, and bytes 1 and 3, times a scale whose factor() is given.
struct EvenOdd {
  uint32_t even, odd;
};
__device__ inline EvenOdd values_of(uint32_t bytes, uint32_t factor, NanFinder* nan) {
  nan->see(bytes);
  return {ptx::multiply_bf16x2(tiny_from_e4m3(ptx::extend_bytes<0, 2>(bytes)), factor),
          ptx::multiply_bf16x2(tiny_from_e4m3(ptx::extend_bytes<1, 3>(bytes)), factor)};
}

}  // namespace plain

/// The same of whole chunks, values in their order.
class PlainDequantiser {
 public:
  /// The scale bytes of up to eight groups of a token; zeros for the others.
  __device__ explicit PlainDequantiser(const uint2& scales) : scales_(scales) {}

  /// Sixteen bytes of the `group`-th of them to two chunks of eight bf16.
  __device__ void operator()(const uint4& bytes, int group, uint4* first, uint4* second) {
    const uint32_t words[] = {bytes.x, bytes.y, bytes.z, bytes.w};
    const uint32_t scale = (group < 4 ? scales_.x : scales_.y) >> (8 * (group % 4)) & 0xff;
    const uint32_t factor = plain::factor(scale);
    for (const uint32_t word : words) nan_.see(word);
    uint32_t values[8];
#pragma unroll
    for (int i = 0; i < 8; ++i)
      values[i] = ptx::multiply_bf16x2(tiny_from_e4m3(pair_of(words, i)), factor);
    *first = {values[0], values[1], values[2], values[3]};
    *second = {values[4], values[5], values[6], values[7]};
  }

  /// Whether all that was made is right. Otherwise it is to be made again, by dequantise().
  __device__ bool was_plain() const {
    return (plain::large_scales(scales_.x) | plain::large_scales(scales_.y)) == 0 && !nan_.found();
  }

 private:
  uint2 scales_;
  NanFinder nan_;
};

}  // namespace steady::cuda
