// SPDX-License-Identifier: Apache-2.0
// One token's 512 values in, its bytes in a page out, and back.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "api/error.hpp"
#include "cpu/dequantise.hpp"
#include "cpu/float_environment.hpp"
#include "numeric/bf16.hpp"
#include "numeric/e4m3.hpp"
#include "numeric/ue8m0.hpp"
#include "steady/device.h"

namespace steady {
namespace {

Status check_place(steady_cache_format format, const void* values, const void* page,
                   int32_t page_tokens, int32_t token) {
  if (format != STEADY_CACHE_FP8 && format != STEADY_CACHE_BF16) {
    return invalid("format is ", static_cast<int>(format),
                   "; allowed is STEADY_CACHE_FP8 (0) or STEADY_CACHE_BF16 (1)");
  }
  if (values == nullptr) return invalid("values is NULL");
  if (page == nullptr) return invalid("page is NULL");
  if (page_tokens < 1) return invalid("page_tokens is ", page_tokens, "; allowed is 1 or more");
  if (token < 0 || token >= page_tokens) {
    return invalid("token is ", token, "; allowed is 0 to page_tokens - 1 = ", page_tokens - 1);
  }
  return {};
}

uint8_t pack_group(const float* values, uint8_t* bytes) {
  float amax = 0;
  for (int i = 0; i < STEADY_FP8_SCALE_GROUP; ++i) amax = std::max(amax, std::fabs(values[i]));
  const uint8_t scale = ue8m0_for_amax(amax);
  for (int i = 0; i < STEADY_FP8_SCALE_GROUP; ++i) {
    bytes[i] = e4m3_from_float(values[i] / float_from_ue8m0(scale));
  }
  return scale;
}

void pack(steady_cache_format format, const float* values, uint8_t* page, int32_t page_tokens,
          int32_t token) {
  uint8_t* data = page + steady_data_offset(format, token);
  const int nope = format == STEADY_CACHE_FP8 ? STEADY_NOPE_DIM : 0;
  // The model rounds a vector to bf16 before it looks for the largest magnitude.
  uint16_t bits[kHeadDim];
  std::transform(values, values + kHeadDim, bits, bf16_from_float);
  std::memcpy(data + nope, bits + nope, sizeof(uint16_t) * (kHeadDim - nope));
  if (format != STEADY_CACHE_FP8) return;
  float rounded[STEADY_NOPE_DIM];
  std::transform(bits, bits + STEADY_NOPE_DIM, rounded, float_from_bf16);
  uint8_t* scales = page + steady_fp8_scales_offset(page_tokens, token);
  std::fill_n(scales, STEADY_FP8_SCALE_BYTES, uint8_t{0});
  for (int group = 0; group < STEADY_FP8_SCALES; ++group) {
    const int begin = group * STEADY_FP8_SCALE_GROUP;
    scales[group] = pack_group(rounded + begin, data + begin);
  }
}

}  // namespace
}  // namespace steady

steady_status steady_pack_token(steady_cache_format format, const float* values, void* page,
                                int32_t page_tokens, int32_t token) {
  return steady::guarded([&]() -> steady::Status {
    STEADY_RETURN_IF_ERROR(steady::check_place(format, values, page, page_tokens, token));
    const steady::cpu::DefaultFloatEnvironment environment;
    steady::pack(format, values, static_cast<uint8_t*>(page), page_tokens, token);
    return {};
  });
}

steady_status steady_unpack_token(steady_cache_format format, const void* page, int32_t page_tokens,
                                  int32_t token, float* values) {
  return steady::guarded([&]() -> steady::Status {
    STEADY_RETURN_IF_ERROR(steady::check_place(format, values, page, page_tokens, token));
    const steady::cpu::DefaultFloatEnvironment environment;
    const auto* bytes = static_cast<const uint8_t*>(page);
    steady::cpu::dequantise({format, bytes + steady_data_offset(format, token),
                             bytes + steady_fp8_scales_offset(page_tokens, token)},
                            values);
    return {};
  });
}
