// SPDX-License-Identifier: Apache-2.0
// The elementwise parts of attention in, fp32 and bf16 vectors out.
#pragma once

#include <cstdint>

namespace steady::bench {

struct Loops {
  /// One token of STEADY_CACHE_FP8. NaN bytes come out as ±480.
  void (*dequantise)(const uint8_t* data, const uint8_t* scales, float* values);
  void (*widen_bf16)(const uint16_t* bf16, int count, float* values);
  void (*narrow_to_bf16)(const float* values, int count, uint16_t* bf16);
  /// Scores to weights that sum up to 1, or to less where the sink has its share.
  void (*soften)(float* scores, int count, float sink);
};

Loops plain_loops();  ///< built like the rest of the program
Loops tuned_loops();  ///< built for this machine's instruction set, e^x and sums vectorised

}  // namespace steady::bench
