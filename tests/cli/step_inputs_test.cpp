// SPDX-License-Identifier: Apache-2.0
// Numbers of steps in; variations that repeat, stay within what was recorded, and differ out.
#include "cli/step_inputs.hpp"

#include <gmock/gmock.h>

#include <algorithm>
#include <climits>

namespace steady::test {
namespace {

using cli::StepInputs;
using cli::StepVariations;
using support::RecordedCall;
using support::RecordedScope;
using testing::Each;

constexpr int kLayers = 2, kSteps = 60;

/// 3 requests, 2 heads; 6 slots of which the call read four tokens.
RecordedCall small_call() {
  RecordedCall call;
  call.shape.heads = 2;
  call.shape.queries = 1;
  call.shape.max_batch = 3;
  RecordedScope& window = call.window;
  window.shape = {STEADY_CACHE_FP8, 4, 6};
  window.page_count = 5;
  window.slots = {0, 3, -1, 7, 9, 9,  //
                  3, 0, 1,  8, 8, 8,  //
                  1, 1, 1,  1, 1, 1};
  window.lengths = {3, 2, 0};  // 0 and 3 are read; the others stand behind the lengths
  call.shape.window = window.shape;
  for (int i = 0; i < 3 * 2 * STEADY_HEAD_DIM; ++i)
    call.q.push_back(static_cast<uint16_t>(0x3f80 + i % 64));
  return call;
}

StepInputs made(const RecordedCall& call, int step, bool hostile = false) {
  StepInputs inputs;
  StepVariations(call, kLayers, hostile).make(step, &inputs);
  return inputs;
}

TEST(StepVariations, BeginWithTheRecordedCallForEveryLayer) {
  const RecordedCall call = small_call();
  const StepInputs inputs = made(call, 0, true);
  EXPECT_EQ(inputs.scopes[0].slots, call.window.slots);
  EXPECT_EQ(inputs.scopes[0].lengths, call.window.lengths);
  EXPECT_TRUE(std::equal(call.q.begin(), call.q.end(), inputs.q.begin()));
  EXPECT_TRUE(std::equal(call.q.begin(), call.q.end(), inputs.q.begin() + call.q.size()));
}

TEST(StepVariations, DependOnTheNumberOfTheStepAlone) {
  const RecordedCall call = small_call();
  const StepVariations variations(call, kLayers, true);
  StepInputs in_order;
  for (int step = 0; step < 8; ++step) variations.make(step, &in_order);
  const StepInputs alone = made(call, 7, true);
  EXPECT_EQ(alone.q, in_order.q);
  EXPECT_EQ(alone.scopes[0].slots, in_order.scopes[0].slots);
  EXPECT_EQ(alone.scopes[0].lengths, in_order.scopes[0].lengths);
}

TEST(StepVariations, NameOnlyTokensThatTheRecordedCallRead) {
  const RecordedCall call = small_call();
  for (int step = 1; step < kSteps; ++step) {
    const StepInputs inputs = made(call, step);
    EXPECT_THAT(inputs.scopes[0].slots, Each(testing::AnyOf(-1, 0, 3)));
  }
}

TEST(StepVariations, ReachEmptyFullAndPartialLengths) {
  const RecordedCall call = small_call();
  std::vector<bool> seen(7);
  for (int step = 1; step < kSteps; ++step) {
    const StepInputs inputs = made(call, step);
    for (const int32_t length : inputs.scopes[0].lengths) {
      ASSERT_GE(length, 0);
      ASSERT_LE(length, 6);
      seen[length] = true;
    }
  }
  EXPECT_THAT(seen, Each(true));
}

TEST(StepVariations, GiveEachLayerQueriesOfItsOwn) {
  const RecordedCall call = small_call();
  const StepInputs inputs = made(call, 1);
  const auto middle = inputs.q.begin() + call.q.size();
  EXPECT_FALSE(std::equal(inputs.q.begin(), middle, middle));
  EXPECT_NE(inputs.q, made(call, 2).q);
  for (const uint16_t value : inputs.q) ASSERT_LE((value & 0x7fff) - 0x3f80, 63);
}

TEST(StepVariations, AreHostileOnEveryThirdStepIfAsked) {
  const RecordedCall call = small_call();
  for (int step = 1; step < kSteps; ++step) {
    const cli::FaultCounts faults = made(call, step, true).faults;
    EXPECT_EQ(faults.negative_lengths, step % 3 == 1 ? 1 : 0);
    EXPECT_EQ(faults.long_lengths, step % 3 == 1 ? 1 : 0);
    EXPECT_EQ(faults.stray_slots > 0, step % 3 == 1);
    EXPECT_EQ(made(call, step, false).faults.stray_slots, 0);
  }
}

TEST(StepVariations, CountTheWorkOfALayer) {
  const RecordedCall call = small_call();
  const StepInputs inputs = made(call, 0);
  const double tokens = 4;  // 0, 3 and 3, 0
  EXPECT_EQ(inputs.layer_flop, tokens * 2 * 2 * 2 * STEADY_HEAD_DIM);
  EXPECT_EQ(inputs.layer_unique_bytes, 2 * STEADY_FP8_TOKEN_BYTES);
}

}  // namespace
}  // namespace steady::test
