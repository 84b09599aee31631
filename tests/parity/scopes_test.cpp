// SPDX-License-Identifier: Apache-2.0
// Tokens divided between window and compressed pool, repeated, absent, go in; the answer is that of
// one softmax over all that is there.
#include <algorithm>
#include <limits>
#include <vector>

#include "tests/support/engine.hpp"
#include "tests/support/values.hpp"

namespace steady::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// One row per request over one pool that serves as both scopes, no holes.
CaseSpec one_pool_spec(int32_t batch, int32_t width) {
  CaseSpec spec;
  spec.heads = 5;
  spec.batch = batch;
  spec.window = {width, STEADY_CACHE_FP8, 16};
  spec.window.hole_percent = 0;
  spec.compressed = {spec.window};
  spec.loose = false;
  spec.sinks = Sinks::kFinite;
  return spec;
}

void share_window_pages(HostileCase& c) {
  steady_layer& layer = c.layers[0];
  layer.compressed.pages = layer.window.pages;
  layer.compressed.page_stride_bytes = layer.window.page_stride_bytes;
  layer.compressed.page_count = layer.window.page_count;
}

class Scopes : public OnEveryBackend {};

INSTANTIATE_TEST_SUITE_P(, Scopes, kEveryBackend, backend_name);

TEST_P(Scopes, AreOneSoftmaxWhereverTheBorderLies) {
  constexpr int32_t kTokens = 160;
  const std::vector<int32_t> borders = {0, 1, 2, 63, 64, 65, 80, 127, 128, 159, 160};
  HostileCase c(one_pool_spec(static_cast<int32_t>(borders.size()), kTokens));
  share_window_pages(c);
  // Row 0's window becomes what every row divides.
  std::fill_n(c.window_lengths(), borders.size(), kTokens);
  c.refill_contents(2);
  const float sinks[] = {-kInfinity, -50, 0, 50, kInfinity};
  std::copy_n(sinks, 5, c.sinks());
  for (size_t row = 0; row < borders.size(); ++row) {
    const int32_t border = borders[row];
    std::copy_n(c.window_slots(), kTokens, c.window_slots() + row * kTokens);
    std::copy_n(c.window_slots() + border, kTokens - border, c.compressed_slots() + row * kTokens);
    c.window_lengths()[row] = border;
    c.compressed_lengths()[row] = kTokens - border;
    std::copy_n(c.q(), 5 * STEADY_HEAD_DIM, c.q() + row * 5 * STEADY_HEAD_DIM);
  }
  Answer one = c.answer();
  const Outputs outputs = run_alone(c, backend());
  EXPECT_TRUE(close_to(outputs, one));
  one.out.resize(5 * STEADY_HEAD_DIM);
  one.lse.resize(5);
  for (size_t row = 0; row < borders.size(); ++row) {
    SCOPED_TRACE(borders[row]);
    EXPECT_TRUE(close_to(rows_of(outputs, static_cast<int64_t>(row), 1), one));
  }
}

TEST_P(Scopes, CountATokenAsOftenAsItIsNamed) {
  HostileCase c(one_pool_spec(1, 64));
  share_window_pages(c);
  for (const int32_t repeats : {1, 2, 64}) {
    c.window_lengths()[0] = 64;
    c.refill_contents(2);
    for (int32_t i = 0; i < 64; ++i) c.window_slots()[i] = c.window_slots()[i / repeats];
    std::copy_n(c.window_slots(), 64, c.compressed_slots());
    c.compressed_lengths()[0] = 20;
    EXPECT_TRUE(close_to(run_alone(c, backend()), c.answer())) << repeats;
  }
}

TEST_P(Scopes, MayBeEmptyOrMissing) {
  for (const int32_t window : {0, 70}) {
    for (const int32_t compressed : {0, 70}) {
      CaseSpec spec;
      spec.batch = 3;
      spec.window.width = window;
      spec.compressed[0].width = compressed;
      HostileCase c(spec);
      for (const int32_t window_length : {0, 70}) {
        for (const int32_t compressed_length : {0, 70}) {
          c.reset_outputs();
          std::fill_n(c.window_lengths(), 3, std::min(window, window_length));
          std::fill_n(c.compressed_lengths(), 3, std::min(compressed, compressed_length));
          c.refill_contents(2);
          expect_right(c, backend());
        }
      }
    }
  }
}

TEST_P(Scopes, OfHolesAloneAreEmpty) {
  CaseSpec spec;
  spec.batch = 3;
  spec.window.width = spec.compressed[0].width = 133;
  spec.window.hole_percent = spec.compressed[0].hole_percent = 100;
  const HostileCase c(spec);
  const Outputs outputs = run_alone(c, backend());
  EXPECT_EQ(outputs.out, std::vector<uint16_t>(outputs.out.size(), 0));
  EXPECT_EQ(outputs.lse, std::vector<float>(outputs.lse.size(), -kInfinity));
  EXPECT_TRUE(c.gaps_untouched());
}

TEST_P(Scopes, WithoutTokensHaveTheLseThatTheLayerAsksFor) {
  CaseSpec spec;
  spec.batch = 3;
  spec.window.width = spec.compressed[0].width = 133;
  HostileCase c(spec);
  c.window_lengths()[1] = c.compressed_lengths()[1] = 0;
  c.refill_contents(2);
  Outputs negative = run_alone(c, backend());
  c.reset_outputs();
  c.layers[0].empty_lse_is_positive = 1;
  const Outputs positive = run_alone(c, backend());
  EXPECT_TRUE(c.gaps_untouched());
  for (int head = 0; head < spec.heads; ++head) {
    float& lse = negative.lse[spec.heads + head];
    EXPECT_EQ(lse, -kInfinity);
    lse = kInfinity;
  }
  EXPECT_TRUE(same_bits(positive, negative));  // and nothing else has changed
}

TEST_P(Scopes, SkipHolesAtAnyPlace) {
  HostileCase c(one_pool_spec(4, 133));
  std::fill_n(c.window_lengths(), 4, 133);
  c.refill_contents(2);
  std::fill_n(c.window_slots(), 70, -1);             // the begin
  std::fill_n(c.window_slots() + 133 + 63, 70, -1);  // the end
  std::fill_n(c.window_slots() + 2 * 133, 64, -1);   // all but one
  std::fill_n(c.window_slots() + 2 * 133 + 65, 68, -1);
  for (int32_t i = 0; i < 133; i += 2) c.window_slots()[3 * 133 + i] = -1;
  EXPECT_TRUE(close_to(run_alone(c, backend()), c.answer()));
}

TEST_P(Scopes, AnswerTheSameWithAndWithoutLse) {
  CaseSpec spec;
  spec.window.width = spec.compressed[0].width = 133;
  HostileCase c(spec);
  Outputs with = run_alone(c, backend());
  c.reset_outputs();
  c.layers[0].lse = nullptr;
  const Outputs without = run_alone(c, backend());
  with.lse.clear();
  EXPECT_TRUE(same_bits(without, with));
  EXPECT_TRUE(c.gaps_untouched());
}

}  // namespace
}  // namespace steady::test
