// SPDX-License-Identifier: Apache-2.0
// The elementwise parts of attention in, vectors out, as plain loops that the compiler vectorises.
// Highway compiles them for each instruction set and picks one at run time; none of its operations
// is used.
#include "bench/plain_loops.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

#include "steady/cache_format.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/plain_loops.cpp"
#include <hwy/foreach_target.h>  // compiles this file once for each instruction set
//
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace steady::bench::HWY_NAMESPACE {

void widen_bf16(const uint16_t* HWY_RESTRICT bf16, int count, float* HWY_RESTRICT values) {
  for (int i = 0; i < count; ++i) values[i] = std::bit_cast<float>(uint32_t{bf16[i]} << 16);
}

void narrow_to_bf16(const float* HWY_RESTRICT values, int count, uint16_t* HWY_RESTRICT bf16) {
  for (int i = 0; i < count; ++i) {
    const auto bits = std::bit_cast<uint32_t>(values[i]);
    bf16[i] = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
}

void dequantise(const uint8_t* HWY_RESTRICT data, const uint8_t* HWY_RESTRICT scales,
                float* HWY_RESTRICT values) {
  for (int group = 0; group < STEADY_FP8_SCALES; ++group) {
    const float scale = 0x1p120f * std::bit_cast<float>(uint32_t{scales[group]} << 23);
    const uint8_t* from = data + group * STEADY_FP8_SCALE_GROUP;
    float* to = values + group * STEADY_FP8_SCALE_GROUP;
    for (int i = 0; i < STEADY_FP8_SCALE_GROUP; ++i) {
      const uint32_t sign = uint32_t{from[i]} >> 7 << 31, magnitude = from[i] & 0x7fu;
      to[i] = std::bit_cast<float>(sign | magnitude << 20) * scale;
    }
  }
  widen_bf16(reinterpret_cast<const uint16_t*>(data + STEADY_NOPE_DIM), STEADY_ROPE_DIM,
             values + STEADY_NOPE_DIM);
}

void soften(float* scores, int count, float sink) {
  float max = sink, sum = 0;
  for (int i = 0; i < count; ++i) max = std::max(max, scores[i]);
  for (int i = 0; i < count; ++i) {
    scores[i] = std::exp(scores[i] - max);
    sum += scores[i];
  }
  const float factor = 1 / (sum + std::exp(sink - max));
  for (int i = 0; i < count; ++i) scores[i] *= factor;
}

}  // namespace steady::bench::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace steady::bench {

HWY_EXPORT(dequantise);
HWY_EXPORT(widen_bf16);
HWY_EXPORT(narrow_to_bf16);
HWY_EXPORT(soften);

void dequantise(const uint8_t* data, const uint8_t* scales, float* values) {
  HWY_DYNAMIC_DISPATCH(dequantise)(data, scales, values);
}
void widen_bf16(const uint16_t* bf16, int count, float* values) {
  HWY_DYNAMIC_DISPATCH(widen_bf16)(bf16, count, values);
}
void narrow_to_bf16(const float* values, int count, uint16_t* bf16) {
  HWY_DYNAMIC_DISPATCH(narrow_to_bf16)(values, count, bf16);
}
void soften(float* scores, int count, float sink) {
  HWY_DYNAMIC_DISPATCH(soften)(scores, count, sink);
}

}  // namespace steady::bench
#endif
