// SPDX-License-Identifier: Apache-2.0
// Every number that a cache, a query or a sink can hold goes in; the answers are what the formats
// and the formula say.
#include <cfenv>
#include <cmath>
#include <limits>
#include <vector>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "tests/support/engine.hpp"
#include "tests/support/values.hpp"

namespace steady::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Rows of `width` window tokens, each token of one row alone: slot i is the i-th.
HostileCase own_tokens(int32_t batch, int32_t width, steady_cache_format format) {
  CaseSpec spec;
  spec.heads = 2;
  spec.batch = batch;
  spec.window = {width, format, 16, Lengths::kAbsent};
  spec.window.pool_tokens = batch * width;
  spec.sinks = Sinks::kAbsent;
  spec.loose = false;
  HostileCase c(spec);
  Random random(7);
  for (int32_t slot = 0; slot < batch * width; ++slot) {
    c.window_slots()[slot] = slot;
    fill_token(c.shape().window, c.layers[0].window, slot, random);
  }
  const int64_t elements = int64_t{batch} * spec.heads * STEADY_HEAD_DIM;
  for (int64_t i = 0; i < elements; ++i) c.q()[i] = nearest_bf16(random.normal());
  return c;
}

uint8_t* data_of(const HostileCase& c, int64_t slot) {
  return token_data(c.shape().window, c.layers[0].window, slot);
}

// Of a token of bf16.
void set_first_bf16(const HostileCase& c, int64_t slot, double value) {
  const uint16_t bits = nearest_bf16(value);
  data_of(c, slot)[0] = static_cast<uint8_t>(bits & 255);
  data_of(c, slot)[1] = static_cast<uint8_t>(bits >> 8);
}

uint8_t* scales_of(const HostileCase& c, int64_t slot) {
  return token_scales(c.shape().window, c.layers[0].window, slot);
}

// Gives all scales of a token this byte, and its values every e4m3 code that makes a number with
// it. Above 2^118 only small codes do, so that sums stay far from the end of fp32.
void fill_with_scale(const HostileCase& c, int64_t slot, int scale) {
  uint8_t* data = data_of(c, slot);
  for (int d = 0; d < STEADY_NOPE_DIM; ++d) {
    data[d] = static_cast<uint8_t>(scale > 230 ? d % 8 | (d % 16 / 8 << 7) : d);
    if ((data[d] & 0x7F) == 0x7F) data[d] = 0;
  }
  for (int group = 0; group < STEADY_FP8_SCALES; ++group)
    scales_of(c, slot)[group] = static_cast<uint8_t>(scale);
}

void scale_queries(const HostileCase& c, int64_t row, int begin, int end, double factor) {
  for (int64_t head = 0; head < c.shape().heads; ++head) {
    for (int d = begin; d < end; ++d) {
      uint16_t& bits = c.q()[(row * c.shape().heads + head) * STEADY_HEAD_DIM + d];
      bits = nearest_bf16(factor * bf16_value(bits));
    }
  }
}

class Values : public OnEveryBackend {};

INSTANTIATE_TEST_SUITE_P(, Values, kEveryBackend, backend_name);

TEST_P(Values, EveryCodeUnderEveryScaleComesBackExactly) {
  const HostileCase c = own_tokens(255, 1, STEADY_CACHE_FP8);
  for (int scale = 0; scale < 255; ++scale) {
    fill_with_scale(c, scale, scale);
    scale_queries(c, scale, 0, STEADY_NOPE_DIM, 0);
  }
  const Outputs outputs = run_alone(c, backend());
  for (int64_t scale = 0; scale < 255; ++scale) {
    const auto values = token_values(c.shape().window, c.layers[0].window, scale);
    for (int64_t head = 0; head < c.shape().heads; ++head) {
      for (int64_t d = 0; d < STEADY_HEAD_DIM; ++d) {
        const auto at = static_cast<size_t>((scale * c.shape().heads + head) * STEADY_HEAD_DIM + d);
        ASSERT_EQ(bf16_value(outputs.out[at]),
                  bf16_value(nearest_bf16(values[static_cast<size_t>(d)])))
            << "scale byte " << scale << ", dimension " << d;
      }
    }
  }
}

TEST_P(Values, EveryScaleEntersTheScores) {
  const HostileCase c = own_tokens(255, 5, STEADY_CACHE_FP8);
  for (int scale = 0; scale < 255; ++scale) {
    for (int64_t token = 0; token < 5; ++token) {
      uint8_t* data = data_of(c, scale * 5 + token);
      std::vector<uint8_t> codes(data, data + STEADY_NOPE_DIM);
      fill_with_scale(c, scale * 5 + token, scale);
      for (size_t d = 0; d < codes.size() && scale <= 230; ++d) data[d] = codes[d];
    }
    // Scores of ordinary size, as far as the queries can make up for the scales.
    scale_queries(c, scale, 0, STEADY_NOPE_DIM,
                  std::ldexp(1.0, std::clamp(120 - scale, -110, 110)));
  }
  EXPECT_TRUE(close_to(run_alone(c, backend()), c.answer()));
}

TEST_P(Values, EachGroupOf64HasItsOwnScale) {
  const HostileCase c = own_tokens(STEADY_FP8_SCALES, 3, STEADY_CACHE_FP8);
  for (int group = 0; group < STEADY_FP8_SCALES; ++group)
    for (int64_t token = 0; token < 3; ++token) scales_of(c, group * 3 + token)[group] += 4;
  EXPECT_TRUE(close_to(run_alone(c, backend()), c.answer()));
}

// Puts a poison into one token of row 1 of 3; only row 1 may notice.
template <typename Poison>
void expect_poisons_own_row_alone(steady_backend backend, steady_cache_format format,
                                  Poison poison) {
  const HostileCase c = own_tokens(3, 70, format);
  const Outputs clean = run_alone(c, backend);
  poison(c, 70 + 69);
  const Outputs poisoned = run_alone(c, backend);
  EXPECT_TRUE(same_bits(rows_of(poisoned, 0, 1), rows_of(clean, 0, 1)));
  EXPECT_TRUE(same_bits(rows_of(poisoned, 2, 1), rows_of(clean, 2, 1)));
  for (const uint16_t bits : rows_of(poisoned, 1, 1).out) ASSERT_TRUE(std::isnan(bf16_value(bits)));
  for (const float lse : rows_of(poisoned, 1, 1).lse) ASSERT_TRUE(std::isnan(lse));
}

TEST_P(Values, ANaNScalePoisonsOnlyRowsThatSelectIt) {
  for (const int group : {0, 3, 6}) {
    expect_poisons_own_row_alone(
        backend(), STEADY_CACHE_FP8,
        [group](const HostileCase& c, int64_t slot) { scales_of(c, slot)[group] = 255; });
  }
}

TEST_P(Values, ANaNCodePoisonsOnlyRowsThatSelectIt) {
  for (const uint8_t code : {uint8_t{0x7F}, uint8_t{0xFF}}) {
    for (const int scale : {0, 120, 254}) {
      expect_poisons_own_row_alone(backend(), STEADY_CACHE_FP8,
                                   [&](const HostileCase& c, int64_t slot) {
                                     fill_with_scale(c, slot, scale);
                                     data_of(c, slot)[STEADY_NOPE_DIM - 1] = code;
                                   });
    }
  }
}

TEST_P(Values, ANaNInBf16PoisonsOnlyRowsThatSelectIt) {
  for (const steady_cache_format format : {STEADY_CACHE_FP8, STEADY_CACHE_BF16}) {
    expect_poisons_own_row_alone(backend(), format, [format](const HostileCase& c, int64_t slot) {
      const bool fp8 = format == STEADY_CACHE_FP8;
      uint8_t* last = data_of(c, slot) + (fp8 ? STEADY_FP8_DATA_BYTES : STEADY_BF16_TOKEN_BYTES);
      last[-1] = 0x7F;
      last[-2] = 0xC0;
    });
  }
}

TEST_P(Values, ANaNQueryPoisonsOnlyItsHead) {
  HostileCase c = own_tokens(1, 70, STEADY_CACHE_FP8);
  const Outputs clean = run_alone(c, backend());
  c.q()[STEADY_HEAD_DIM + 5] = kPoisonedQuery;
  const Outputs poisoned = run_alone(c, backend());
  for (size_t d = 0; d < STEADY_HEAD_DIM; ++d) {
    ASSERT_EQ(poisoned.out[d], clean.out[d]);
    ASSERT_TRUE(std::isnan(bf16_value(poisoned.out[STEADY_HEAD_DIM + d])));
  }
  EXPECT_EQ(poisoned.lse[0], clean.lse[0]);
  EXPECT_TRUE(std::isnan(poisoned.lse[1]));
}

TEST_P(Values, AnOverflowingScaleMakesInfinityAndStaysInItsRow) {
  const HostileCase c = own_tokens(3, 70, STEADY_CACHE_FP8);
  const Outputs clean = run_alone(c, backend());
  const int64_t slot = 70 + 13;
  fill_with_scale(c, slot, 254);
  data_of(c, slot)[100] = 0x40;  // 2 * 2^127
  const Outputs overflown = run_alone(c, backend());
  EXPECT_TRUE(same_bits(rows_of(overflown, 0, 1), rows_of(clean, 0, 1)));
  EXPECT_TRUE(same_bits(rows_of(overflown, 2, 1), rows_of(clean, 2, 1)));
  const Outputs row = rows_of(overflown, 1, 1);
  for (int64_t head = 0; head < c.shape().heads; ++head)
    EXPECT_FALSE(std::isfinite(bf16_value(row.out[static_cast<size_t>(head * 512 + 100)])));
}

TEST_P(Values, AnySinkAndItsLimits) {
  HostileCase c = own_tokens(1, 70, STEADY_CACHE_FP8);
  c.layers[0].sink = c.sinks();
  for (const float sink : {0.F, 50.F, -50.F, 1e4F, -1e4F, std::numeric_limits<float>::max(),
                           std::numeric_limits<float>::lowest(), kInfinity, -kInfinity}) {
    SCOPED_TRACE(sink);
    c.sinks()[0] = sink;
    c.sinks()[1] = 1;
    EXPECT_TRUE(close_to(run_alone(c, backend()), c.answer()));
  }
}

TEST_P(Values, ASinkOfMinusInfinityIsNoSink) {
  HostileCase c = own_tokens(1, 70, STEADY_CACHE_FP8);
  const Outputs without = run_alone(c, backend());
  c.layers[0].sink = c.sinks();
  c.sinks()[0] = c.sinks()[1] = -kInfinity;
  EXPECT_TRUE(same_bits(run_alone(c, backend()), without));
}

TEST_P(Values, ASinkOfInfinityMakesOutZeroAndLeavesTheLse) {
  HostileCase c = own_tokens(1, 70, STEADY_CACHE_FP8);
  const Outputs without = run_alone(c, backend());
  c.layers[0].sink = c.sinks();
  c.sinks()[0] = c.sinks()[1] = kInfinity;
  const Outputs outputs = run_alone(c, backend());
  for (const uint16_t bits : outputs.out) ASSERT_EQ(bf16_value(bits), 0);
  EXPECT_EQ(outputs.lse, without.lse);
}

TEST_P(Values, AnyFiniteSoftmaxScale) {
  for (const float scale : {0.F, -0.044F, 1e-30F, 1.F, 10.F, -10.F}) {
    CaseSpec spec;
    spec.softmax_scale = scale;
    spec.window = {133, STEADY_CACHE_FP8, 16};
    spec.compressed = {{65, STEADY_CACHE_BF16, 3}};
    SCOPED_TRACE(scale);
    expect_right(HostileCase(spec), backend());
  }
}

// e4m3 becomes float by way of subnormals, which a caller's thread may be set to flush.
TEST_P(Values, TheCallersFloatingPointEnvironmentChangesNoBit) {
  const HostileCase c = own_tokens(64, 1, STEADY_CACHE_FP8);
  for (int64_t slot = 0; slot < 64; ++slot) fill_with_scale(c, slot, 127);
  const Outputs want = run_alone(c, backend(), 2);
  c.reset_outputs();
  std::fenv_t before;
  ASSERT_EQ(std::fegetenv(&before), 0);
  std::fesetround(FE_UPWARD);
#if defined(__SSE__)
  _mm_setcsr(_mm_getcsr() | 0x8040);  // flush subnormal results, take subnormal operands as zero
#endif
  const Outputs got = run_alone(c, backend(), 2);
  EXPECT_EQ(std::fegetround(), FE_UPWARD) << "the caller's environment has changed";
  std::fesetenv(&before);
  EXPECT_TRUE(same_bits(got, want));
}

TEST_P(Values, AScoreBeyondFloatIsNoEmptyRow) {
  const HostileCase c = own_tokens(1, 1, STEADY_CACHE_BF16);
  data_of(c, 0)[0] = 0xAD;  // 1e20
  data_of(c, 0)[1] = 0x60;
  for (int64_t head = 0; head < c.shape().heads; ++head) {
    c.q()[head * STEADY_HEAD_DIM] = nearest_bf16(1e20);
  }
  for (const float lse : run_alone(c, backend()).lse) EXPECT_NE(lse, -kInfinity);
}

TEST_P(Values, AScoreOfAnySizeIsNoEmptyRow) {
  for (const double size : {1e4, 1e6, 1e9, 1e15, 1e18}) {
    for (const double sign : {1.0, -1.0}) {
      const HostileCase c = own_tokens(1, 1, STEADY_CACHE_BF16);
      set_first_bf16(c, 0, sign * size);
      for (int64_t head = 0; head < c.shape().heads; ++head) {
        c.q()[head * STEADY_HEAD_DIM] = nearest_bf16(size);
      }
      SCOPED_TRACE(sign * size);
      EXPECT_TRUE(close_to(run_alone(c, backend()), c.answer()));
    }
  }
}

TEST_P(Values, ScoresFarApartAndFarFromZero) {
  constexpr int32_t kTokens = 1500;  // more than a backend does in one go
  for (const double offset : {-3000.0, 3000.0}) {
    const HostileCase c = own_tokens(2, kTokens, STEADY_CACHE_BF16);
    for (int64_t slot = 0; slot < 2 * kTokens; ++slot) {
      // One dimension that all queries and tokens share moves all scores.
      set_first_bf16(c, slot, offset);
    }
    for (int64_t vector = 0; vector < 4; ++vector)
      c.q()[vector * STEADY_HEAD_DIM] = nearest_bf16(32);
    SCOPED_TRACE(offset);
    EXPECT_TRUE(close_to(run_alone(c, backend()), c.answer()));
  }
}

}  // namespace
}  // namespace steady::test
