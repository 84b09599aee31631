// SPDX-License-Identifier: Apache-2.0
// Shapes of every legal sort go in; the answers agree with an independent float64 reference.
#include <algorithm>
#include <vector>

#include "tests/support/engine.hpp"

namespace steady::test {
namespace {

// Of heads times tokens: keeps the scalar backends quick.
constexpr int64_t kWork = 60'000;

const std::vector<int32_t> kWidths = {0, 1, 2, 63, 64, 65, 133, 192, 256, 512, 640, 1152};

template <typename T>
T any_of(const std::vector<T>& values, Random& random) {
  return values[static_cast<size_t>(random.below(static_cast<int64_t>(values.size())))];
}

ScopeSpec any_scope(Random& random) {
  ScopeSpec scope;
  scope.width = any_of(kWidths, random);
  scope.format = any_of<steady_cache_format>({STEADY_CACHE_FP8, STEADY_CACHE_BF16}, random);
  scope.page_tokens = any_of<int32_t>({1, 2, 3, 16, 53, 64, 69, 256}, random);
  scope.lengths = any_of<Lengths>({Lengths::kPerRequest, Lengths::kPerQuery}, random);
  scope.wild_lengths = random.percent(30);
  scope.hole_percent = any_of<int>({0, 10, 90}, random);
  scope.stray_percent = any_of<int>({0, 5}, random);
  return scope;
}

CaseSpec any_spec(Random& random) {
  CaseSpec spec;
  spec.heads = any_of<int32_t>({1, 2, 3, 5, 7, 8, 16, 24}, random);
  spec.queries = any_of<int32_t>({1, 2, 3}, random);
  spec.batch = any_of<int32_t>({1, 2, 3}, random);
  spec.max_batch = spec.batch + any_of<int32_t>({0, 5}, random);
  spec.window = any_scope(random);
  spec.compressed = {any_scope(random)};
  spec.sinks = any_of<Sinks>({Sinks::kAbsent, Sinks::kFinite, Sinks::kWithInfinities}, random);
  spec.with_lse = random.percent(80);
  spec.loose = random.percent(70);
  spec.seed = random.next();
  return spec;
}

// Shortens the rows of a case that would take long.
CaseSpec affordable(CaseSpec spec) {
  const int64_t longest = kWork / (2 * int64_t{spec.heads} * spec.queries * spec.batch);
  for (ScopeSpec* scope : {&spec.window, &spec.compressed[0]}) {
    if (scope->width <= longest) continue;
    scope->longest = static_cast<int32_t>(std::max<int64_t>(longest, 3));
  }
  return spec;
}

class Shapes : public OnEveryBackend {
 protected:
  Random random{20};

  void expect_right_spec(const CaseSpec& spec) const {
    expect_right(HostileCase(affordable(spec)), backend());
  }
};

INSTANTIATE_TEST_SUITE_P(, Shapes, kEveryBackend, backend_name);

TEST_P(Shapes, AnyNumberOfHeads) {
  for (const int32_t heads : {1, 2, 3, 5, 7, 8, 16, 24, 33, 64, 100, 127, 128}) {
    for (int repeat = 0; repeat < 2; ++repeat) {
      CaseSpec spec = any_spec(random);
      spec.heads = heads;
      expect_right_spec(spec);
    }
  }
}

TEST_P(Shapes, EveryNumberOfHeadsOnFewTokens) {
  for (int32_t heads = 1; heads <= STEADY_MAX_HEADS; ++heads) {
    CaseSpec spec = any_spec(random);
    spec.heads = heads;
    spec.batch = spec.queries = 1;
    spec.window.longest = spec.compressed[0].longest = 9;
    expect_right(HostileCase(spec), backend());
  }
}

TEST_P(Shapes, AnyNumberOfRequestsAndQueries) {
  for (const int32_t batch : {1, 3, 17}) {
    for (const int32_t queries : {1, 2, 3, 8}) {
      CaseSpec spec = any_spec(random);
      spec.batch = spec.max_batch = batch;
      spec.queries = queries;
      expect_right_spec(spec);
    }
  }
}

TEST_P(Shapes, AnyWidthOfEachScope) {
  for (const int32_t width : kWidths) {
    for (const bool of_window : {true, false}) {
      CaseSpec spec = any_spec(random);
      spec.heads = any_of<int32_t>({1, 2, 3, 5}, random);
      ScopeSpec& scope = of_window ? spec.window : spec.compressed[0];
      scope.width = width;
      scope.hole_percent = 0;
      expect_right_spec(spec);
    }
  }
}

TEST_P(Shapes, AbsentLengthsMeanTheFullWidth) {
  for (const int32_t width : kWidths) {
    CaseSpec spec = any_spec(random);
    spec.heads = any_of<int32_t>({1, 2, 3, 5}, random);
    spec.batch = spec.queries = 1;
    spec.window.width = width;
    spec.window.lengths = spec.compressed[0].lengths = Lengths::kAbsent;
    expect_right_spec(spec);
  }
}

TEST_P(Shapes, AnyPageSizeInBothFormatsOfEachScope) {
  for (const int32_t page_tokens : {1, 2, 3, 16, 53, 64, 69, 256}) {
    for (const steady_cache_format format : {STEADY_CACHE_FP8, STEADY_CACHE_BF16}) {
      for (const bool of_window : {true, false}) {
        CaseSpec spec = any_spec(random);
        ScopeSpec& scope = of_window ? spec.window : spec.compressed[0];
        scope.page_tokens = page_tokens;
        scope.format = format;
        scope.width = std::max(scope.width, 65);
        expect_right_spec(spec);
      }
    }
  }
}

TEST_P(Shapes, LengthsPerQueryForEachScope) {
  for (const Lengths window : {Lengths::kPerRequest, Lengths::kPerQuery}) {
    for (const Lengths compressed : {Lengths::kPerRequest, Lengths::kPerQuery}) {
      CaseSpec spec = any_spec(random);
      spec.queries = 4;
      spec.batch = 3;
      spec.max_batch = 4;
      spec.window.width = 133;
      spec.compressed[0].width = 65;
      spec.window.lengths = window;
      spec.compressed[0].lengths = compressed;
      expect_right_spec(spec);
    }
  }
}

TEST_P(Shapes, RowsOfTwice65536Tokens) {
  for (const int32_t heads : {1, 2}) {
    CaseSpec spec;
    spec.heads = heads;
    spec.batch = 1;
    spec.window = {STEADY_MAX_TOKENS, STEADY_CACHE_FP8, 64, Lengths::kAbsent};
    spec.compressed = {{STEADY_MAX_TOKENS, STEADY_CACHE_BF16, 2, Lengths::kAbsent}};
    expect_right(HostileCase(spec), backend());
  }
}

TEST_P(Shapes, MoreRowsThan16BitsCount) {
  CaseSpec spec;
  spec.heads = 1;
  spec.batch = STEADY_MAX_BATCH;
  spec.queries = STEADY_MAX_QUERIES;
  spec.window = {2, STEADY_CACHE_FP8, 3, Lengths::kPerQuery};
  spec.compressed = {{1, STEADY_CACHE_BF16, 1}};
  expect_right(HostileCase(spec), backend());
}

TEST_P(Shapes, AShapeWithoutAnyPoolAnswersZero) {
  HostileCase c(CaseSpec{});
  const Outputs outputs = run_alone(c, backend());
  EXPECT_TRUE(close_to(outputs, c.answer()));
  EXPECT_EQ(outputs.out, std::vector<uint16_t>(outputs.out.size(), 0));
}

}  // namespace
}  // namespace steady::test
