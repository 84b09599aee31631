// SPDX-License-Identifier: Apache-2.0
// Every e4m3 code under every ue8m0 scale goes in; the kernels' integer moves and products make the
// bf16 that the definition makes.
#include "cuda/dequantise.cuh"

#include <gtest/gtest.h>

#include "numeric/bf16.hpp"
#include "numeric/e4m3.hpp"
#include "numeric/ue8m0.hpp"

namespace steady::cuda {
namespace {

/// The `i`-th of sixteen codes from `first` on. Their signs take turns: none may be a neighbour's.
uint32_t code_from(uint32_t first, uint32_t i) { return (first + i) ^ i % 2 << 7; }
uint4 codes_from(uint32_t first) {
  const auto word = [](uint32_t first_code) {
    uint32_t codes = 0;
    for (uint32_t i = 0; i < 4; ++i) codes |= code_from(first_code, i) << 8 * i;
    return codes;
  };
  return {word(first), word(first + 4), word(first + 8), word(first + 12)};
}

TEST(Dequantise, ABytesSignFillsTheEightBitsAboveIt) {
  EXPECT_EQ((ptx::extend_bytes<0, 1>(0x80017ffeu)), 0x007ffffeu);
  EXPECT_EQ((ptx::extend_bytes<2, 3>(0x80017ffeu)), 0xff800001u);
  EXPECT_EQ((ptx::extend_bytes<0, 2>(0x80017ffeu)), 0x0001fffeu);
  EXPECT_EQ((ptx::extend_bytes<1, 3>(0x80017ffeu)), 0xff80007fu);
}

TEST(Dequantise, EveryCodeUnderEveryScaleIsExactOrRoundedOnce) {
  for (int scale = 0; scale < 256; ++scale) {
    for (uint32_t first = 0; first < 256; first += 16) {
      uint4 chunks[2];
      dequantise(codes_from(first), static_cast<uint32_t>(scale), &chunks[0], &chunks[1]);
      uint16_t values[16];
      std::memcpy(values, chunks, sizeof values);
      for (uint32_t i = 0; i < 16; ++i) {
        const auto code = static_cast<uint8_t>(code_from(first, i));
        const float wanted = float_from_e4m3(code) * float_from_ue8m0(static_cast<uint8_t>(scale));
        const float got = float_from_bf16(values[i]);
        if (std::isnan(wanted)) {
          ASSERT_TRUE(std::isnan(got)) << scale << ' ' << int{code};
        } else {
          ASSERT_EQ(values[i], bf16_from_float(wanted)) << scale << ' ' << int{code};
        }
      }
    }
  }
}

TEST(Dequantise, ThePlainWayIsTheSameOrSaysThatItIsNot) {
  for (uint32_t scale = 0; scale < 256; ++scale) {
    for (uint32_t first = 0; first < 256; first += 16) {
      const uint4 bytes = codes_from(first);
      const bool has_nan = first % 128 == 112, is_small = scale <= 134;
      for (int group = 0; group < 8; ++group) {
        const int shift = 8 * (group % 4);
        uint2 scales = {0x7f7f7f7fu, 0x7f7f7f7fu};
        uint32_t& word = group < 4 ? scales.x : scales.y;
        word = (word & ~(0xffu << shift)) | scale << shift;
        PlainDequantiser plain(scales);
        uint4 got[2], wanted[2];
        plain(bytes, group, &got[0], &got[1]);
        ASSERT_EQ(plain.was_plain(), is_small && !has_nan) << scale << ' ' << first;
        if (!plain.was_plain()) continue;
        dequantise(bytes, scale, &wanted[0], &wanted[1]);
        ASSERT_EQ(std::memcmp(got, wanted, sizeof got), 0) << scale << ' ' << first;
      }
    }
  }
}

TEST(Dequantise, ThePlainWayOfEvenAndOddBytesIsTheSameOrSaysThatItIsNot) {
  for (uint32_t scale = 0; scale < 256; ++scale) {
    for (int place = 0; place < 4; ++place) {
      const uint32_t others = 0x86867f00u & ~(0xffu << 8 * place);  // the largest that are plain
      ASSERT_EQ(plain::large_scales(others | scale << 8 * place) != 0, scale > 134) << scale;
    }
    for (uint32_t code = 0; code < 256; ++code) {
      for (int place = 0; place < 4; ++place) {
        const uint32_t word[] = {(0x7e3800feu & ~(0xffu << 8 * place)) | code << 8 * place};
        NanFinder nan;
        const auto got = plain::values_of(word[0], plain::factor(scale), &nan);
        ASSERT_EQ(nan.found(), (code & 0x7f) == 0x7f) << code << ' ' << place;
        if (nan.found() || scale > 134) continue;
        uint32_t wanted[2];
        dequantise(word, scale, wanted);
        ASSERT_EQ(got.even, __byte_perm(wanted[0], wanted[1], 0x5410)) << scale << ' ' << code;
        ASSERT_EQ(got.odd, __byte_perm(wanted[0], wanted[1], 0x7632)) << scale << ' ' << code;
      }
    }
  }
}

}  // namespace
}  // namespace steady::cuda
