// SPDX-License-Identifier: Apache-2.0
// The number formats and the softmax monoid, held against definitions in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "numeric/bf16.hpp"
#include "numeric/e4m3.hpp"
#include "numeric/softmax_state.hpp"
#include "numeric/ue8m0.hpp"

namespace steady {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

double e4m3_by_definition(int byte) {
  const int exponent = (byte >> 3) & 15, mantissa = byte & 7;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return byte & 0x80 ? -magnitude : magnitude;
}

TEST(E4m3, EveryByteMeansWhatTheFormatSays) {
  for (int byte = 0; byte < 256; ++byte) {
    const float value = float_from_e4m3(static_cast<uint8_t>(byte));
    if ((byte & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(value)) << byte;
    } else {
      EXPECT_EQ(value, e4m3_by_definition(byte)) << byte;
      EXPECT_EQ(std::signbit(value), byte >= 0x80) << byte;
    }
  }
}

TEST(E4m3, EveryValueRoundTrips) {
  for (int byte = 0; byte < 256; ++byte) {
    const auto bits = static_cast<uint8_t>(byte);
    EXPECT_EQ(e4m3_from_float(float_from_e4m3(bits)) & ((byte & 0x7f) == 0x7f ? 0x7f : 0xff),
              (byte & 0x7f) == 0x7f ? 0x7f : byte);
  }
}

TEST(E4m3, RoundsToTheNearestValueAndTiesToTheEvenByte) {
  for (int byte = 0; byte < 0x7e; ++byte) {
    const double low = e4m3_by_definition(byte), high = e4m3_by_definition(byte + 1);
    const double middle = (low + high) / 2;
    EXPECT_EQ(e4m3_from_float(static_cast<float>(middle)), byte % 2 == 0 ? byte : byte + 1);
    EXPECT_EQ(e4m3_from_float(std::nextafter(static_cast<float>(middle), 0.0f)), byte);
    EXPECT_EQ(e4m3_from_float(std::nextafter(static_cast<float>(middle), 1e9f)), byte + 1);
  }
}

TEST(E4m3, SaturatesBeyondTheLargestValue) {
  EXPECT_EQ(e4m3_from_float(449.0f), 0x7e);
  EXPECT_EQ(e4m3_from_float(-1e30f), 0xfe);
  EXPECT_EQ(e4m3_from_float(kInfinity), 0x7e);
}

TEST(Ue8m0, EveryByteIsAPowerOfTwo) {
  for (int byte = 0; byte < 255; ++byte) {
    EXPECT_EQ(float_from_ue8m0(static_cast<uint8_t>(byte)), std::ldexp(1.0, byte - 127)) << byte;
  }
  EXPECT_TRUE(std::isnan(float_from_ue8m0(255)));
}

// The smallest power of two with amax / scale <= 448, for every bf16 amax that the model can
// produce.
TEST(Ue8m0, ScaleIsTheSmallestThatBringsTheGroupIntoRange) {
  for (int exponent = -10; exponent <= 30; ++exponent) {
    for (int mantissa = 128; mantissa < 256; ++mantissa) {
      const double amax = std::ldexp(mantissa, exponent - 7);
      const double scale = float_from_ue8m0(ue8m0_for_amax(static_cast<float>(amax)));
      EXPECT_LE(amax / scale, 448.0) << amax;
      EXPECT_GT(amax / (scale / 2), 448.0) << amax;
    }
  }
}

TEST(Ue8m0, ScaleOfATinyGroupIsFlooredAtTwoToTheMinus22) {
  EXPECT_EQ(ue8m0_for_amax(0.0f), 105);
  EXPECT_EQ(ue8m0_for_amax(1e-6f), 105);
  EXPECT_EQ(ue8m0_for_amax(448.0f), 127);
  EXPECT_EQ(ue8m0_for_amax(std::nextafter(448.0f, 1e9f)), 128);
}

TEST(Bf16, EveryPatternRoundTrips) {
  for (int bits = 0; bits < 65536; ++bits) {
    const float value = float_from_bf16(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(float_from_bf16(bf16_from_float(value)))) << bits;
    } else {
      EXPECT_EQ(bf16_from_float(value), bits);
    }
  }
}

TEST(Bf16, RoundsToTheNearestValueAndTiesToEven) {
  for (int bits = 0; bits < 0x7f80; ++bits) {
    const float low = float_from_bf16(static_cast<uint16_t>(bits));
    const float middle = std::bit_cast<float>((static_cast<uint32_t>(bits) << 16) | 0x8000u);
    EXPECT_EQ(bf16_from_float(middle), bits % 2 == 0 ? bits : bits + 1);
    EXPECT_EQ(bf16_from_float(std::nextafter(middle, low)), bits);
    EXPECT_EQ(bf16_from_float(std::nextafter(middle, kInfinity)), bits + 1);
  }
}

/// A state of some scores whose values are all one number, so that out is a single float.
struct State {
  SoftmaxState state;
  float out = 0;
};

State state_of(const std::vector<float>& scores, float value) {
  State s;
  if (scores.empty()) return s;
  s.state.max = *std::max_element(scores.begin(), scores.end());
  for (float score : scores) s.state.sum += std::exp(score - s.state.max);
  s.out = s.state.sum * value;
  return s;
}

State merged(const State& a, const State& b) {
  const Merged m = merge(a.state, b.state);
  return {m.state, a.out * m.left_weight + b.out * m.right_weight};
}

TEST(SoftmaxState, EmptyStateIsTheIdentityOnBothSides) {
  const State some = state_of({1.0f, -3.0f, 70.0f}, 2.0f), none;
  for (const State& result : {merged(some, none), merged(none, some)}) {
    EXPECT_EQ(result.state.max, some.state.max);
    EXPECT_EQ(result.state.sum, some.state.sum);
    EXPECT_EQ(result.out, some.out);
  }
  EXPECT_EQ(merged(none, none).state.sum, 0.0f);
  EXPECT_EQ(merged(none, none).state.max, -kInfinity);
}

TEST(SoftmaxState, MergeIsTheSoftmaxOfTheUnionWhateverTheGrouping) {
  const State a = state_of({1, 2, 3}, 1.0f), b = state_of({90, -90}, -2.0f),
              c = state_of({89.5f}, 5.0f);
  double sum = 0, out = 0;
  for (auto [score, value] :
       {std::pair{1., 1.}, {2., 1.}, {3., 1.}, {90., -2.}, {-90., -2.}, {89.5, 5.}}) {
    sum += std::exp(score - 90);
    out += std::exp(score - 90) * value;
  }
  for (const State& result :
       {merged(merged(a, b), c), merged(a, merged(b, c)), merged(c, merged(b, a))}) {
    const Finished finished = finish(result.state, -kInfinity, -kInfinity);
    EXPECT_NEAR(result.out * finished.out_weight, out / sum, 1e-6);
    EXPECT_NEAR(finished.lse, 90 + std::log(sum), 1e-5);
  }
}

TEST(SoftmaxState, SinkJoinsTheDenominatorAndNotTheLse) {
  const State s = state_of({0.0f, 0.0f}, 1.0f);
  EXPECT_FLOAT_EQ(s.out * finish(s.state, 0.0f, -kInfinity).out_weight, 2.0f / 3.0f);
  EXPECT_FLOAT_EQ(finish(s.state, 0.0f, -kInfinity).lse, std::log(2.0f));
  EXPECT_EQ(s.out * finish(s.state, kInfinity, -kInfinity).out_weight, 0.0f);
  EXPECT_EQ(s.out * finish(s.state, 1e30f, -kInfinity).out_weight, 0.0f);
  EXPECT_EQ(s.out * finish(s.state, -kInfinity, -kInfinity).out_weight, 1.0f);
}

TEST(SoftmaxState, EmptyRowAnswersZeroAndMinusInfinityWhateverTheSink) {
  for (float sink : {-kInfinity, -50.0f, 0.0f, 50.0f, kInfinity}) {
    for (const float empty_lse : {-kInfinity, kInfinity}) {
      EXPECT_EQ(finish(SoftmaxState{}, sink, empty_lse).out_weight, 0.0f);
      EXPECT_EQ(finish(SoftmaxState{}, sink, empty_lse).lse, empty_lse);
    }
  }
}

}  // namespace
}  // namespace steady
