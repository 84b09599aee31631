// SPDX-License-Identifier: Apache-2.0
// The functions of Loops. No guard and no namespace: each includer compiles them in its own way.

inline void widen_bf16(const uint16_t* __restrict bf16, int count, float* __restrict values) {
  for (int i = 0; i < count; ++i) values[i] = std::bit_cast<float>(uint32_t{bf16[i]} << 16);
}

inline void narrow_to_bf16(const float* __restrict values, int count, uint16_t* __restrict bf16) {
  for (int i = 0; i < count; ++i) {
    const auto bits = std::bit_cast<uint32_t>(values[i]);
    bf16[i] = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
}

inline void dequantise(const uint8_t* __restrict data, const uint8_t* __restrict scales,
                       float* __restrict values) {
  for (int group = 0; group < STEADY_FP8_SCALES; ++group) {
    // e4m3's exponent moved to float's place is off by 2^120.
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

inline void soften(float* scores, int count, float sink) {
  float max = sink, sum = 0;
  for (int i = 0; i < count; ++i) max = std::max(max, scores[i]);
  for (int i = 0; i < count; ++i) {
    scores[i] = std::exp(scores[i] - max);
    sum += scores[i];
  }
  const float factor = 1 / (sum + std::exp(sink - max));
  for (int i = 0; i < count; ++i) scores[i] *= factor;
}
