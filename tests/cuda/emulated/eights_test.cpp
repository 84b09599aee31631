// SPDX-License-Identifier: Apache-2.0
// Clusters of eight blocks, compiled for the host: the oracle's answers and the bits of pairs. In
// few clusters, because one is 6,144 threads.
#include <gtest/gtest.h>

#include "tests/cuda/emulated/calls.hpp"

namespace steady::cuda {
namespace {

constexpr Kernel kEights = {8, 8}, kPairs = {2, 16};

void expect_the_bits_of_pairs(const Inputs& inputs, const PlanLimits& limits) {
  const Answer in_pairs = run(inputs, limits, kPairs);
  expect_close(in_pairs, oracle(inputs));
  EXPECT_TRUE(run(inputs, limits, kEights) == in_pairs);
}

constexpr PlanLimits kOneUnit = {1, 0, 1152, 1};

/// More tiles than buffers, of which references move.
TEST(EmulatedEights, BitsOfLongUnitsAreThoseOfPairs) {
  expect_the_bits_of_pairs(Inputs(5, 380, 230, STEADY_CACHE_FP8, 0, 0.5f), kOneUnit);
}

/// So that who makes weights hands on that scores are scaled before they meet a reference.
TEST(EmulatedEights, BitsOfScoresFarApartAreThoseOfPairs) {
  expect_the_bits_of_pairs(Inputs(3, 300, 40, STEADY_CACHE_FP8, 0, 1e9f), kOneUnit);
}

TEST(EmulatedEights, BitsOfWeightsThatAreLargeTogetherAreThoseOfPairs) {
  Inputs inputs(8, 200, 0, STEADY_CACHE_FP8, 0, 0.15f);
  inputs.repeat_tokens();
  expect_the_bits_of_pairs(inputs, kOneUnit);
}

/// Made anew from pages: the window's first tile by its scale, when its values are stored already,
/// the others because they are bf16.
TEST(EmulatedEights, BitsOfTokensThatAreNotPlainAreThoseOfPairs) {
  Inputs inputs(3, 150, 70, STEADY_CACHE_BF16, 0, 0.001f);
  inputs.first_token(0, true)[3] = 135;
  expect_the_bits_of_pairs(inputs, kOneUnit);
}

/// Units of one tile, more of them than their ends have places, and two groups of heads.
TEST(EmulatedEights, BitsOfJoinedUnitsAreThoseOfPairs) {
  constexpr PlanLimits kShortUnits = {1, 0, 64, 16};
  expect_the_bits_of_pairs(Inputs(11, 300, 200, STEADY_CACHE_FP8, 0, 0.5f), kShortUnits);
}

/// Of three tiles, so that units and tiles go round their buffers at a different pace.
TEST(EmulatedEights, BitsOfSplitUnitsAreThoseOfPairs) {
  constexpr PlanLimits kThreeTiles = {2, 40, 192, 32};
  expect_the_bits_of_pairs(Inputs(4, 300, 40, STEADY_CACHE_FP8, 0, 0.5f), kThreeTiles);
}

}  // namespace
}  // namespace steady::cuda
