// SPDX-License-Identifier: Apache-2.0
// The sources of attend and merge, compiled for the host and run a thread for each of theirs: the
// same answers as the oracle's, and the same bits however the work is dealt. Needs no GPU.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <thread>

#include "tests/cuda/emulated/calls.hpp"
#include "tests/cuda/emulated/earlier_grids.hpp"

namespace steady::cuda {
namespace {

using std::chrono_literals::operator""ms;

/// All rows whole and of one unit; several units, which one part joins; rows split between parts.
constexpr PlanLimits kWhole = {2, 0, 1152, 1}, kJoined = {1, 0, 64, 16}, kSplit = {2, 40, 64, 16};
/// As many parts as rows and more; all rows of several units split.
constexpr PlanLimits kFinelySplit = {5, 40, 64, 16}, kAllSplit = {5, 0, 64, 16, 40};

/// With heads as rows of products.
constexpr Kernel kPair32 = {2, 32, 16}, kPair64 = {2, 64, 32};

struct Emulated : testing::TestWithParam<Kernel> {
  /// As many, and those that it takes for the kernel to be asked.
  static int heads(int heads) { return GetParam().more_than + heads; }
};

INSTANTIATE_TEST_SUITE_P(Portable, Emulated, testing::Values(Kernel{Kernel::kPortable, 16}));
INSTANTIATE_TEST_SUITE_P(Hopper, Emulated,
                         testing::Values(Kernel{1, 16}, Kernel{1, 64, 32}, Kernel{2, 16},
                                         Kernel{4, 8}, kPair32, kPair64));

TEST_P(Emulated, WithAPlanForAnotherBatchOrOfAnotherEngineAnswersAreNaN) {
  const Inputs inputs(heads(11), 70, 90, STEADY_CACHE_FP8);
  void (*const spoilers[])(PlanHeader*) = {
      [](PlanHeader* header) { header->batch = kRows - 1; },
      [](PlanHeader* header) { header->batch = kRows + 1; },
      [](PlanHeader* header) { header->seal = kSeal + 1; },
  };
  for (const auto& spoil : spoilers) {
    const Answer answer = run(inputs, kSplit, GetParam(), spoil);
    for (const uint16_t bits : answer.out) ASSERT_EQ(bits & 0x7fff, 0x7fc0);
    for (const float lse : answer.lse) ASSERT_TRUE(std::isnan(lse));
  }
}

TEST_P(Emulated, AnswersAreTheOracles) {
  const Inputs inputs(heads(11), 70, 90, STEADY_CACHE_FP8);
  expect_close(run(inputs, kWhole, GetParam()), oracle(inputs));
}

/// Scores so far apart that the largest one of a later tile leaves those before without weight.
TEST_P(Emulated, ScoresThatRiseFarAreRight) {
  for (const float softmax_scale : {1.5f, -1.5f, 1e9f, 1e30f}) {
    const Inputs inputs(heads(11), 150, 260, STEADY_CACHE_FP8, 0, softmax_scale);
    expect_close(run(inputs, kWhole, GetParam()), oracle(inputs));
  }
}

/// Units of many tiles, so that every ring of buffers is gone around, by all its lengths.
TEST_P(Emulated, LongRowsAreRight) {
  const Inputs inputs(heads(7), 1152, 640, STEADY_CACHE_FP8);
  expect_close(run(inputs, {1, 40, 1152, 16}, GetParam()), oracle(inputs));
}

TEST_P(Emulated, PoolsOfBf16AndAtOddAddressesAreReadAsWell) {
  const Inputs inputs(heads(3), 40, 45, STEADY_CACHE_BF16, 2);
  expect_close(run(inputs, kWhole, GetParam()), oracle(inputs));
}

TEST_P(Emulated, BitsDoNotDependOnWhoDoesTheUnits) {
  const Inputs inputs(heads(3), 70, 110, STEADY_CACHE_FP8);
  const Answer joined = run(inputs, kJoined, GetParam());
  expect_close(joined, oracle(inputs));
  EXPECT_TRUE(run(inputs, kSplit, GetParam()) == joined);
  EXPECT_TRUE(run(inputs, kFinelySplit, GetParam()) == joined);
  const PlanLimits a_part_each = {5, 0, 64, 16};
  EXPECT_TRUE(run(inputs, a_part_each, GetParam()) == joined);
}

TEST_P(Emulated, QueriesOfOneRequestHaveTheBitsOfRequestsOfTheirOwn) {
  Inputs inputs(heads(3), 70, 110, STEADY_CACHE_FP8);
  const Answer apart = run(inputs, kSplit, GetParam());
  inputs.make_one_request();
  const Answer together = run(inputs, kSplit, GetParam());
  expect_close(together, oracle(inputs));
  EXPECT_TRUE(together == apart);
}

TEST(EmulatedPortable, BitsDoNotDependOnTheHeadsThatABlockDoesTogether) {
  const Inputs inputs(35, 70, 110, STEADY_CACHE_FP8);
  const Answer by_64 = run(inputs, kJoined, {Kernel::kPortable, 64});
  expect_close(by_64, oracle(inputs));
  for (const int heads : {16, 32, 64}) {
    EXPECT_TRUE(run(inputs, kSplit, {Kernel::kPortable, heads}) == by_64) << heads;
  }
}

TEST(EmulatedHopper, BitsDoNotDependOnTheHeadsThatABlockDoesTogetherNorOnTheBlocksOfACluster) {
  for (const float softmax_scale : {0.05f, 0.5f}) {  // the second moves some heads' references
    const Inputs inputs(40, 70, 40, STEADY_CACHE_FP8, 0, softmax_scale);
    const Answer by_64 = run(inputs, kWhole, kPair64);
    expect_close(by_64, oracle(inputs));
    for (const Kernel kernel :
         {Kernel{1, 64}, Kernel{1, 16}, kPair32, Kernel{2, 16}, Kernel{4, 32}, Kernel{4, 16}}) {
      EXPECT_TRUE(run(inputs, kWhole, kernel) == by_64) << testing::PrintToString(kernel);
    }
  }
}

/// Weights that are large only together: of sixteen, of which a lane has sixteen where heads are
/// rows and two where they are columns.
TEST(EmulatedHopper, BitsOfWeightsThatAreLargeTogetherAreThoseOfPairs) {
  Inputs inputs(24, 200, 0, STEADY_CACHE_FP8, 0, 0.15f);  // tiles' scores differ by about 2^7
  inputs.repeat_tokens();
  const Answer in_pairs = run(inputs, kWhole, kPair32);
  expect_close(in_pairs, oracle(inputs));
  for (const Kernel kernel : {Kernel{2, 16}, Kernel{4, 24}, Kernel{4, 8}})
    EXPECT_TRUE(run(inputs, kWhole, kernel) == in_pairs) << testing::PrintToString(kernel);
}

TEST(EmulatedHopper, BitsOfJoinedAndSplitUnitsAreThoseOfClusters) {
  const Inputs inputs(40, 100, 60, STEADY_CACHE_FP8, 0, 0.5f);
  const Answer joined = run(inputs, kJoined, kPair64);
  expect_close(joined, oracle(inputs));
  EXPECT_TRUE(run(inputs, kJoined, {1, 64}) == joined);
  EXPECT_TRUE(run(inputs, kSplit, {1, 16}) == joined);
  EXPECT_TRUE(run(inputs, kJoined, {2, 16}) == joined);
  EXPECT_TRUE(run(inputs, kJoined, {4, 24}) == joined);
  for (const Kernel kernel : {Kernel{1, 64}, kPair32, Kernel{2, 16}, Kernel{4, 24}}) {
    const Answer all_split = run(inputs, kAllSplit, kernel);
    EXPECT_EQ(all_split.split_rows, 2);  // the empty row has one unit
    EXPECT_TRUE(all_split == joined) << testing::PrintToString(kernel);
  }
}

/// A grid may begin before those in front of it in the stream have ended.
TEST(EmulatedHopper, NothingButThePlanIsReadBeforeEarlierGridsAreOver) {
  Inputs inputs(17, 70, 90, STEADY_CACHE_FP8);
  for (const Kernel kernel : {Kernel{1, 64}, kPair32, Kernel{2, 16}, Kernel{4, 24}}) {
    const Answer answer = run(inputs, kJoined, kernel);
    inputs.hide();
    emulated::earlier_grids.leave([&] {
      std::this_thread::sleep_for(300ms);  // who does not wait has read by then
      inputs.reveal();
    });
    EXPECT_TRUE(run(inputs, kJoined, kernel) == answer) << testing::PrintToString(kernel);
    ASSERT_TRUE(emulated::earlier_grids.are_over());
  }
}

/// With heads as columns there are other buffers and other makers for other numbers of heads.
TEST(EmulatedHopper, LongRowsOfManyHeadsAsColumnsAreRight) {
  for (const int heads : {12, 20, 28}) {  // in groups of up to 16, 24 and 32
    const Inputs inputs(heads, 640, 300, STEADY_CACHE_FP8);
    const Answer answer = oracle(inputs);
    expect_close(run(inputs, {1, 40, 1152, 16}, {4, 32}), answer);
    if (heads <= 16) expect_close(run(inputs, {1, 40, 1152, 16}, {2, 16}), answer);
  }
}

TEST(EmulatedHopper, AScaleAboveThePlainOnesGivesTheSameBits) {
  Inputs inputs(17, 150, 70, STEADY_CACHE_FP8, 0, 0.001f);
  for (int group = 0; group < 7; group += 3) inputs.first_token(0, true)[group] = 135;
  const Answer in_pairs = run(inputs, kWhole, kPair32);
  expect_close(in_pairs, oracle(inputs));
  for (const Kernel kernel : {Kernel{1, 32}, Kernel{2, 16}, Kernel{4, 16}})
    EXPECT_TRUE(run(inputs, kWhole, kernel) == in_pairs) << testing::PrintToString(kernel);
}

TEST(EmulatedHopper, ANaNCodeSpoilsTheSameRowsAsInPairs) {
  constexpr int kHeads = 17;
  Inputs inputs(kHeads, 150, 70, STEADY_CACHE_FP8);
  inputs.first_token(2, false)[400] = 0xff;
  const Answer in_pairs = run(inputs, kWhole, kPair32);
  for (const Kernel kernel : {Kernel{1, 32}, Kernel{2, 16}, Kernel{4, 16}}) {
    const Answer spoiled_too = run(inputs, kWhole, kernel);
    int spoiled = 0;
    for (size_t i = 0; i < in_pairs.out.size(); ++i) {
      const bool nan = std::isnan(float_from_bf16(in_pairs.out[i]));
      spoiled += nan;
      if (nan) {
        ASSERT_TRUE(std::isnan(float_from_bf16(spoiled_too.out[i]))) << i;
      } else {
        ASSERT_EQ(spoiled_too.out[i], in_pairs.out[i]) << i;
      }
    }
    EXPECT_GE(spoiled, kHeads * kHeadDim);
  }
}

TEST(EmulatedHopper, QueriesAtOddAddressesGiveTheSameBits) {
  Inputs inputs(17, 70, 90, STEADY_CACHE_FP8);
  const Answer aligned = run(inputs, kWhole, {4, 16});
  inputs.move_queries();
  for (const Kernel kernel : {Kernel{1, 32}, kPair32, Kernel{2, 16}, Kernel{4, 16}})
    EXPECT_TRUE(run(inputs, kWhole, kernel) == aligned) << testing::PrintToString(kernel);
}

/// A unit's first tile may be too low for a reference, by a scale at the edge of a float's range.
TEST(EmulatedHopper, BitsOfScoresBeyondAllReferencesAreThoseOfClusters) {
  Inputs inputs(24, 130, 70, STEADY_CACHE_FP8, 0, 1e37f);
  inputs.leave_two_tokens();
  const Answer in_pairs = run(inputs, kWhole, kPair32);
  EXPECT_GT(std::count_if(in_pairs.lse.begin(), in_pairs.lse.begin() + 24,
                          [](float lse) { return std::isfinite(lse); }),
            8);
  for (const Kernel kernel : {Kernel{1, 32}, Kernel{2, 16}, Kernel{4, 24}})
    EXPECT_TRUE(run(inputs, kWhole, kernel) == in_pairs) << testing::PrintToString(kernel);
}

/// More units in a part than any ring holds.
TEST(EmulatedHopper, BitsOfManyShortUnitsAreThoseOfClusters) {
  const Inputs inputs(17, 1152, 640, STEADY_CACHE_FP8);
  constexpr PlanLimits kManyUnits = {1, 0, 64, 32};
  const Answer in_pairs = run(inputs, kManyUnits, kPair32);
  expect_close(in_pairs, oracle(inputs));
  for (const Kernel kernel : {Kernel{1, 32}, Kernel{2, 16}, Kernel{4, 24}})
    EXPECT_TRUE(run(inputs, kManyUnits, kernel) == in_pairs) << testing::PrintToString(kernel);
}

/// The same where two blocks deal weights: one has a head more, one has none in its last group.
TEST(EmulatedHopper, BitsOfShortUnitsOfManyHeadsInPairsAreThoseOfBlocks) {
  struct Case {
    int heads, unit_tokens;
  };
  for (const auto& [heads, unit_tokens] : {Case{33, 64}, Case{49, 128}}) {
    const Inputs inputs(heads, 300, 0, STEADY_CACHE_FP8, 0, 0.5f);
    const PlanLimits limits = {1, 0, unit_tokens, 32};
    const Answer in_pairs = run(inputs, limits, kPair64);
    expect_close(in_pairs, oracle(inputs));
    for (const Kernel kernel : {Kernel{1, 64}, kPair32})
      EXPECT_TRUE(run(inputs, limits, kernel) == in_pairs) << testing::PrintToString(kernel);
  }
}

/// So that units and tiles go round their buffers at a different pace.
TEST(EmulatedHopper, BitsOfUnitsOfSomeTilesAreThoseOfPairs) {
  const Inputs inputs(17, 448, 0, STEADY_CACHE_FP8);
  constexpr PlanLimits kTwoTiles = {1, 0, 128, 32}, kThreeTiles = {3, 40, 192, 32};
  for (const PlanLimits& limits : {kTwoTiles, kThreeTiles}) {
    const Answer in_pairs = run(inputs, limits, kPair32);
    expect_close(in_pairs, oracle(inputs));
    for (const Kernel kernel : {Kernel{2, 16}, Kernel{4, 24}})
      EXPECT_TRUE(run(inputs, limits, kernel) == in_pairs) << testing::PrintToString(kernel);
  }
}

}  // namespace
}  // namespace steady::cuda
