// SPDX-License-Identifier: Apache-2.0
// Two blocks with whole vectors that share a row's tokens, each with its own group of heads: the
// oracle's answers with the bits of pairs of blocks that share values.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <thread>

#include "tests/cuda/emulated/calls.hpp"
#include "tests/cuda/emulated/earlier_grids.hpp"
#include "tests/cuda/emulated/late_copies.hpp"

namespace steady::cuda {
namespace {

using std::chrono_literals::operator""ms;

/// With more than 64 heads, of which either block has at least one.
constexpr int kHeads = 67;
constexpr Kernel kSharing = {1, 64}, kPair64 = {2, 64};
constexpr PlanLimits kWhole = {2, 0, 1152, 1}, kJoined = {1, 0, 64, 16}, kSplit = {2, 40, 64, 16};

/// The same bits as pairs', and the oracle's answers.
void expect_bits_of_pairs(const Inputs& inputs, const PlanLimits& limits) {
  const Answer in_pairs = run(inputs, limits, kPair64);
  expect_close(in_pairs, oracle(inputs));
  EXPECT_TRUE(run(inputs, limits, kSharing) == in_pairs);
}

TEST(EmulatedSharedTokens, BitsAreThoseOfPairs) {
  // One moves some heads' references, the other leaves tiles before without weight.
  for (const float softmax_scale : {0.5f, 1e9f})
    expect_bits_of_pairs({kHeads, 110, 60, STEADY_CACHE_FP8, 0, softmax_scale}, kWhole);
}

TEST(EmulatedSharedTokens, ManyTilesAndUnitsHaveTheBitsOfPairs) {
  const Inputs inputs(kHeads, 330, 200, STEADY_CACHE_FP8);
  const PlanLimits one_unit = {1, 40, 1152, 16}, three_tiles = {3, 40, 192, 32};
  for (const PlanLimits& limits : {one_unit, three_tiles}) expect_bits_of_pairs(inputs, limits);
}

TEST(EmulatedSharedTokens, BitsDoNotDependOnWhoDoesTheUnits) {
  const Inputs inputs(kHeads, 70, 110, STEADY_CACHE_FP8);
  const Answer joined = run(inputs, kJoined, kSharing);
  expect_close(joined, oracle(inputs));
  const PlanLimits finely_split = {5, 40, 64, 16}, a_part_each = {5, 0, 64, 16};
  EXPECT_TRUE(run(inputs, finely_split, kSharing) == joined);
  EXPECT_TRUE(run(inputs, a_part_each, kSharing) == joined);
}

/// Of bf16 and at odd addresses.
TEST(EmulatedSharedTokens, TokensThatAreNotCopiedAsMostAreReachBothBlocks) {
  Inputs inputs(kHeads, 70, 45, STEADY_CACHE_BF16, 2);
  inputs.move_queries();
  expect_bits_of_pairs(inputs, kWhole);
}

TEST(EmulatedSharedTokens, AScaleAboveThePlainOnesReachesBothBlocks) {
  Inputs inputs(kHeads, 70, 20, STEADY_CACHE_FP8, 0, 0.001f);
  for (int group = 0; group < 7; group += 3) inputs.first_token(0, true)[group] = 135;
  expect_bits_of_pairs(inputs, kWhole);
}

/// Among values that are made early and late, in the half of a tile that either block brings.
TEST(EmulatedSharedTokens, ANaNCodeSpoilsTheSameRowsAsInPairs) {
  struct Place {
    int from, byte;
  };
  for (const Place& place : {Place{0, 10}, Place{32, 400}}) {
    Inputs inputs(kHeads, 70, 20, STEADY_CACHE_FP8);
    inputs.first_token(0, false, place.from)[place.byte] = 0xff;
    const Answer in_pairs = run(inputs, kWhole, kPair64), sharing = run(inputs, kWhole, kSharing);
    int spoiled = 0;
    for (size_t i = 0; i < in_pairs.out.size(); ++i) {
      const bool nan = std::isnan(float_from_bf16(in_pairs.out[i]));
      spoiled += nan;
      ASSERT_EQ(std::isnan(float_from_bf16(sharing.out[i])), nan) << i;
      if (!nan) {
        ASSERT_EQ(sharing.out[i], in_pairs.out[i]) << i;
      }
    }
    EXPECT_GE(spoiled, kHeads * kHeadDim);
  }
}

/// A row's answer goes out by way of places of tokens, which a copy to the other block may read for
/// longer than this block needs them. No part has more tiles than there are places.
TEST(EmulatedSharedTokens, AnswersLeaveTokensAloneThatAreStillBeingCopied) {
  const Inputs inputs(kHeads, 60, 40, STEADY_CACHE_FP8);
  constexpr PlanLimits kAPartEach = {3, 0, 1152, 1};
  const Answer in_pairs = run(inputs, kAPartEach, kPair64);
  emulated::copies_are_late = true;
  const Answer sharing = run(inputs, kAPartEach, kSharing);
  emulated::copies_are_late = false;
  EXPECT_TRUE(sharing == in_pairs);
}

TEST(EmulatedSharedTokens, NothingButThePlanIsReadBeforeEarlierGridsAreOver) {
  Inputs inputs(kHeads, 70, 90, STEADY_CACHE_FP8);
  const Answer answer = run(inputs, kJoined, kSharing);
  inputs.hide();
  emulated::earlier_grids.leave([&] {
    std::this_thread::sleep_for(300ms);  // who does not wait has read by then
    inputs.reveal();
  });
  EXPECT_TRUE(run(inputs, kJoined, kSharing) == answer);
  ASSERT_TRUE(emulated::earlier_grids.are_over());
}

TEST(EmulatedSharedTokens, WithAPlanForAnotherBatchAnswersAreNaN) {
  const Inputs inputs(kHeads, 70, 90, STEADY_CACHE_FP8);
  const Answer answer =
      run(inputs, kSplit, kSharing, [](PlanHeader* header) { header->batch = kRows - 1; });
  for (const uint16_t bits : answer.out) ASSERT_EQ(bits & 0x7fff, 0x7fc0);
  for (const float lse : answer.lse) ASSERT_TRUE(std::isnan(lse));
}

}  // namespace
}  // namespace steady::cuda
