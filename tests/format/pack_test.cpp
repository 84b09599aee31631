// SPDX-License-Identifier: Apache-2.0
// Values go into a page and come out again; the bytes are those of DeepSeek-V4's quantiser, judged
// by an independent reading of the formats.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "tests/support/engine.hpp"
#include "tests/support/values.hpp"

namespace steady::test {
namespace {

constexpr uint8_t kUntouched = 0xA5;

using Values = std::vector<float>;

struct Page {
  Page(steady_cache_format f, int32_t page_tokens)
      : format(f),
        tokens(page_tokens),
        bytes(static_cast<size_t>(steady_page_bytes(f, page_tokens)), kUntouched) {}

  void pack(const Values& values, int32_t token = 0) {
    ASSERT_TRUE(ok(steady_pack_token(format, values.data(), bytes.data(), tokens, token)));
  }
  Values unpack(int32_t token = 0) const {
    Values values(STEADY_HEAD_DIM);
    EXPECT_TRUE(ok(steady_unpack_token(format, bytes.data(), tokens, token, values.data())));
    return values;
  }
  // What the bytes mean, without the library.
  Values meaning(int32_t token = 0) const {
    const steady_pool pool = {bytes.data(), static_cast<int64_t>(bytes.size()), 1, nullptr, 0};
    const auto values = token_values({format, tokens, 1}, pool, token);
    Values floats(values.size());
    std::transform(values.begin(), values.end(), floats.begin(),
                   [](double value) { return static_cast<float>(value); });
    return floats;
  }

  steady_cache_format format;
  int32_t tokens;
  std::vector<uint8_t> bytes;
};

testing::AssertionResult same_values(const Values& got, const Values& want) {
  for (size_t d = 0; d < want.size(); ++d) {
    if (std::isnan(got[d]) ? !std::isnan(want[d]) : got[d] != want[d])
      return testing::AssertionFailure()
             << "dimension " << d << " is " << got[d] << " instead of " << want[d];
  }
  return testing::AssertionSuccess();
}

// The e4m3 number nearest to `value`, ties to the even code, no further than the largest.
float nearest_e4m3(double value) {
  static const std::vector<float> magnitudes = [] {
    std::vector<float> all;
    for (int code = 0; code < 0x7F; ++code) all.push_back(e4m3_value(static_cast<uint8_t>(code)));
    return all;
  }();
  const double magnitude = std::fabs(value);
  size_t best = 0;
  for (size_t code = 1; code < magnitudes.size(); ++code) {
    const double nearer =
        std::fabs(magnitude - magnitudes[best]) - std::fabs(magnitude - magnitudes[code]);
    if (nearer > 0 || (nearer == 0 && code % 2 == 0)) best = code;
  }
  return static_cast<float>(std::copysign(magnitudes[best], value));
}

// 2^ceil(log2(max(amax, 1e-4) / 448)), as an exponent.
int scale_exponent(double amax) {
  int exponent = -127;
  while (std::ldexp(static_cast<double>(e4m3_value(0x7E)), exponent) < std::max(amax, 1e-4))
    ++exponent;
  return exponent;
}

// Numbers that bf16 has, up to `amax` in size; `amax` itself is among each 64.
Values bf16_values_up_to(double amax, Random& random) {
  Values values(STEADY_HEAD_DIM);
  for (float& value : values) value = bf16_value(nearest_bf16(amax * (2 * random.uniform() - 1)));
  for (size_t d = 5; d < values.size(); d += 64)
    values[d] = static_cast<float>(d % 128 == 5 ? amax : -amax);
  return values;
}

void expect_quantised(const Values& values, double amax) {
  Page page(STEADY_CACHE_FP8, 3);
  page.pack(values, 1);
  const uint8_t* scales = page.bytes.data() + steady_fp8_scales_offset(3, 1);
  const int exponent = scale_exponent(amax);
  for (int group = 0; group < STEADY_FP8_SCALES; ++group)
    ASSERT_EQ(scales[group], exponent + 127) << "amax " << amax << ", group " << group;
  Values want = values;
  for (size_t d = 0; d < STEADY_NOPE_DIM; ++d)
    want[d] = std::ldexp(nearest_e4m3(std::ldexp(values[d], -exponent)), exponent);
  ASSERT_TRUE(same_values(page.meaning(1), want)) << "amax " << amax;
}

TEST(Packing, WritesItsTokenAndNothingElse) {
  Random random(1);
  for (const steady_cache_format format : {STEADY_CACHE_FP8, STEADY_CACHE_BF16}) {
    for (const int32_t page_tokens : {1, 2, 64, 256}) {
      for (const int32_t token : {0, 1, page_tokens - 1}) {
        if (token >= page_tokens) continue;
        Page page(format, page_tokens);
        const Values values = bf16_values_up_to(3, random);
        page.pack(values, token);
        const bool fp8 = format == STEADY_CACHE_FP8;
        const int64_t data_bytes = fp8 ? STEADY_FP8_DATA_BYTES : STEADY_BF16_TOKEN_BYTES;
        const int64_t data = data_bytes * token;
        const int64_t scales = data_bytes * page_tokens + 8 * token;
        for (int64_t i = 0; i < static_cast<int64_t>(page.bytes.size()); ++i) {
          const bool own = (i >= data && i < data + data_bytes) ||
                           (fp8 && i >= scales && i < scales + STEADY_FP8_SCALE_BYTES);
          ASSERT_TRUE(own || page.bytes[static_cast<size_t>(i)] == kUntouched) << "byte " << i;
        }
        EXPECT_TRUE(!fp8 || page.bytes[static_cast<size_t>(scales + 7)] == 0) << "the pad";
        EXPECT_TRUE(same_values(page.unpack(token), page.meaning(token)));
      }
    }
  }
}

TEST(Packing, PutsEachValueIntoItsOwnBytes) {
  for (size_t d = 0; d < STEADY_HEAD_DIM; ++d) {
    Page page(STEADY_CACHE_FP8, 2);
    Values values(STEADY_HEAD_DIM);
    values[d] = -1.5F;
    page.pack(values);
    const size_t at = d < STEADY_NOPE_DIM ? d : STEADY_NOPE_DIM + 2 * (d - STEADY_NOPE_DIM);
    for (size_t i = 0; i < STEADY_FP8_DATA_BYTES; ++i) {
      const bool own = i == at || (d >= STEADY_NOPE_DIM && i == at + 1);
      ASSERT_EQ(page.bytes[i] != 0, own) << "dimension " << d << ", byte " << i;
    }
    EXPECT_TRUE(same_values(page.meaning(), values));
  }
}

TEST(Packing, ScalesByTheLeastPowerOf2ThatHoldsTheLargestValue) {
  Random random(2);
  for (int exponent = -30; exponent <= 10; ++exponent) {
    for (int mantissa = 128; mantissa < 256; ++mantissa) {
      const double amax = std::ldexp(mantissa, exponent - 7);
      expect_quantised(bf16_values_up_to(amax, random), amax);
    }
  }
}

TEST(Packing, ScalesEachGroupByItself) {
  Random random(3);
  Page page(STEADY_CACHE_FP8, 1);
  Values values(STEADY_HEAD_DIM);
  for (size_t d = 0; d < STEADY_NOPE_DIM; ++d)
    values[d] = std::ldexp(1.0F, static_cast<int>(d / 64) - 3);
  page.pack(values);
  for (int group = 0; group < STEADY_FP8_SCALES; ++group) {
    EXPECT_EQ(page.bytes[static_cast<size_t>(steady_fp8_scales_offset(1, 0) + group)],
              127 + scale_exponent(std::ldexp(1.0, group - 3)));
  }
  EXPECT_TRUE(same_values(page.meaning(), values));
}

TEST(Packing, GivesZerosTheSmallestScale) {
  Page page(STEADY_CACHE_FP8, 1);
  page.pack(Values(STEADY_HEAD_DIM));
  for (size_t i = 0; i < STEADY_FP8_DATA_BYTES; ++i) EXPECT_EQ(page.bytes[i], 0);
  for (size_t group = 0; group < STEADY_FP8_SCALES; ++group)
    EXPECT_EQ(page.bytes[STEADY_FP8_DATA_BYTES + group], 127 - 22);
}

TEST(Packing, DoesNotBumpTheScaleOfAnExactFit) {
  Random random(4);
  for (int exponent = -21; exponent <= 30; ++exponent) {
    const double amax = std::ldexp(static_cast<double>(e4m3_value(0x7E)), exponent);
    ASSERT_EQ(scale_exponent(amax), exponent);
    expect_quantised(bf16_values_up_to(amax, random), amax);
  }
}

TEST(Packing, HoldsTheLargestBf16) {
  Random random(5);
  const double amax = bf16_value(0x7F7F);
  expect_quantised(bf16_values_up_to(amax, random), amax);
}

TEST(Packing, KeepsNaN) {
  for (const steady_cache_format format : {STEADY_CACHE_FP8, STEADY_CACHE_BF16}) {
    Page page(format, 1);
    Values values(STEADY_HEAD_DIM, 1.0F);
    values[70] = values[500] = std::numeric_limits<float>::quiet_NaN();
    page.pack(values);
    EXPECT_TRUE(same_values(page.meaning(), values));
    EXPECT_TRUE(same_values(page.unpack(), values));
  }
}

TEST(Packing, RoundsBf16ToNearestTiesToEven) {
  Random random(6);
  Page page(STEADY_CACHE_BF16, 1);
  Values values(STEADY_HEAD_DIM);
  for (int repeat = 0; repeat < 50; ++repeat) {
    Values want(values.size());
    for (size_t d = 0; d < values.size(); ++d) {
      // Ties, and neighbours of ties, of all magnitudes but the ones that round to infinity.
      uint32_t bits = static_cast<uint32_t>(random.next());
      bits =
          (bits & 0xFFFF0000U) | (d % 2 == 0 ? 0x8000U + static_cast<uint32_t>(d % 3) - 1 : bits);
      if ((bits & 0x7F800000U) >= 0x7F000000U) bits &= 0x8FFFFFFFU;
      std::memcpy(&values[d], &bits, sizeof(bits));
      want[d] = bf16_value(nearest_bf16(values[d]));
    }
    page.pack(values);
    ASSERT_TRUE(same_values(page.meaning(), want));
  }
}

TEST(Packing, RoundsRopeValuesToBf16) {
  Random random(7);
  Page page(STEADY_CACHE_FP8, 1);
  Values values(STEADY_HEAD_DIM);
  for (float& value : values) value = static_cast<float>(random.normal());
  page.pack(values);
  const Values stored = page.meaning();
  for (size_t d = STEADY_NOPE_DIM; d < STEADY_HEAD_DIM; ++d)
    EXPECT_EQ(stored[d], bf16_value(nearest_bf16(values[d])));
}

TEST(Packing, LosesAtMostHalfAStepOfE4m3) {
  Random random(8);
  Page page(STEADY_CACHE_FP8, 1);
  Values values(STEADY_HEAD_DIM);
  for (float& value : values) value = static_cast<float>(random.normal());
  page.pack(values);
  const Values stored = page.unpack();
  for (size_t d = 0; d < STEADY_HEAD_DIM; ++d)
    EXPECT_NEAR(stored[d], values[d], std::fabs(values[d]) * 0.07 + 1e-4);
}

TEST(Packing, OfWhatWasUnpackedChangesNoValue) {
  Random random(9);
  Page page(STEADY_CACHE_FP8, 1);
  Values values(STEADY_HEAD_DIM);
  for (float& value : values) value = static_cast<float>(random.normal());
  page.pack(values);
  const Values once = page.unpack();
  page.pack(once);
  EXPECT_TRUE(same_values(page.unpack(), once));
}

TEST(Unpacking, ReadsEveryCodeUnderEveryScale) {
  Page page(STEADY_CACHE_FP8, 2);
  for (int scale = 0; scale < 256; ++scale) {
    for (size_t d = 0; d < STEADY_NOPE_DIM; ++d)
      page.bytes[STEADY_FP8_DATA_BYTES + d] = static_cast<uint8_t>(d);
    for (int group = 0; group < STEADY_FP8_SCALES; ++group)
      page.bytes[static_cast<size_t>(steady_fp8_scales_offset(2, 1) + group)] =
          static_cast<uint8_t>(scale);
    ASSERT_TRUE(same_values(page.unpack(1), page.meaning(1))) << "scale byte " << scale;
  }
}

TEST(Unpacking, ReadsEveryBf16) {
  Page page(STEADY_CACHE_BF16, 1);
  for (int begin = 0; begin < 65536; begin += STEADY_HEAD_DIM) {
    for (int d = 0; d < STEADY_HEAD_DIM; ++d) {
      page.bytes[static_cast<size_t>(2 * d)] = static_cast<uint8_t>((begin + d) & 255);
      page.bytes[static_cast<size_t>(2 * d + 1)] = static_cast<uint8_t>((begin + d) >> 8);
    }
    ASSERT_TRUE(same_values(page.unpack(), page.meaning()));
  }
}

}  // namespace
}  // namespace steady::test
