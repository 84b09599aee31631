// SPDX-License-Identifier: Apache-2.0
// The sources of attend and merge, compiled for the host and run a thread for each of theirs: the
// same answers as the oracle's, and the same bits however the work is dealt. Needs no GPU.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "cpu/attend.hpp"
#include "cpu/merge.hpp"
#include "cpu/plan.hpp"
#include "cuda/attend.hpp"
#include "cuda/merge.hpp"
#include "cuda/sm90/attend.hpp"
#include "numeric/bf16.hpp"
#include "steady/device.h"
#include "tests/cuda/emulated/earlier_grids.hpp"
#include "tests/cuda/emulated/inputs.hpp"

namespace steady::cuda {
namespace {

using std::chrono_literals::operator""ms;

struct Answer {
  explicit Answer(const Shape& shape)
      : out(size_t{kRows} * shape.heads * kHeadDim, 0x7fc0),
        lse(size_t{kRows} * shape.heads, NAN) {}
  bool operator==(const Answer& other) const {
    return out == other.out &&
           std::memcmp(lse.data(), other.lse.data(), lse.size() * sizeof(float)) == 0;
  }
  std::vector<uint16_t> out;
  std::vector<float> lse;
  int split_rows = 0;  // by the plan
};

/// One kernel and how many heads its blocks do together; of Hopper's, how many share a row: one has
/// whole vectors. Of two, those with up to sixteen heads do them as columns.
struct Kernel {
  int cluster;  // kPortable: not Hopper's
  int heads;
  int more_than = 0;  // heads, or another kernel would do them
  static constexpr int kPortable = 0;
};

void PrintTo(const Kernel& kernel, std::ostream* out) {
  if (kernel.cluster == Kernel::kPortable) {
    *out << "portable by " << kernel.heads;
  } else {
    *out << "hopper by " << kernel.heads << " in " << kernel.cluster;
  }
}

AttendChoice portable_choice(const Shape& shape, int heads) {
  for (const int rows : {1000, 1}) {
    for (const size_t limit : {size_t{227} << 10, size_t{120} << 10, size_t{90} << 10}) {
      const AttendChoice choice = choose_attend(shape, rows, 1, limit);
      if (choice.heads == heads) return choice;
    }
  }
  ADD_FAILURE() << "no choice of " << heads << " heads";
  return {};
}

constexpr uint64_t kSeal = 77;

/// The whole call, planned by the CPU; `spoil` may change what the plan says of itself.
Answer run(const Inputs& inputs, const PlanLimits& limits, const Kernel& kernel,
           void (*spoil)(PlanHeader*) = nullptr) {
  const Shape& shape = inputs.shape();
  Answer answer(shape);
  PlanHeader header = {};
  std::vector<PartRange> parts(limits.parts);
  std::vector<RowPlan> rows(kRows);
  std::vector<int32_t> split_rows(limits.parts);
  const PlanTables plan = {&header, parts.data(), rows.data(), split_rows.data()};
  cpu::plan(shape, limits, inputs.step(), 0, plan, nullptr);
  header.seal = kSeal;
  answer.split_rows = header.split_count;
  if (spoil != nullptr) spoil(&header);
  const int heads = shape.heads;
  std::vector<SoftmaxState> states(
      size_t{1} * (limits.parts + std::max(limits.slots, limits.all_slots)) * heads);
  std::vector<float> outs(states.size() * kHeadDim, NAN);
  int32_t layers = 0;
  const int groups = (heads + kernel.heads - 1) / kernel.heads;
  EXPECT_GT(sm90::group_heads(heads, groups), kernel.more_than);
  constexpr int kMostRows = 64;  // of products, in a block
  std::vector<float> kept(
      size_t{1} * limits.parts * std::max(kernel.cluster, 1) * groups * kMostRows * kHeadDim, NAN);
  const Tables tables = {plan, nullptr, states.data(), outs.data(), kept.data(), nullptr, &layers};
  const LayerCall call = {heads,
                          Divisor(shape.queries),
                          shape.softmax_scale,
                          kSeal,
                          limits,
                          inputs.layer(answer.out.data(), answer.lse.data()),
                          tables};
  if (kernel.cluster != Kernel::kPortable) {
    const sm90::Spread spread = {kernel.cluster, groups, limits.parts};
    EXPECT_EQ(sm90::launch_attend(call, spread, nullptr), cudaSuccess);
    EXPECT_EQ(sm90::launch_merge(call, nullptr), cudaSuccess);
  } else {
    const AttendChoice choice = portable_choice(shape, kernel.heads);
    EXPECT_EQ(launch_attend(call, choice, nullptr), cudaSuccess);
    EXPECT_EQ(launch_merge(call, nullptr), cudaSuccess);
  }
  return answer;
}

Answer oracle(const Inputs& inputs) {
  Answer answer(inputs.shape());
  const Shape& shape = inputs.shape();
  const Layer layer = inputs.layer(answer.out.data(), answer.lse.data());
  std::vector<std::max_align_t> scratch(
      cpu::attend_scratch_bytes(shape) / sizeof(std::max_align_t) + 1);
  std::vector<SoftmaxState> states(shape.heads);
  std::vector<float> out(size_t{1} * shape.heads * kHeadDim);
  const Partial partial = {states.data(), out.data()};
  const Step step = inputs.step();
  for (int row = 0; row < kRows; ++row) {
    const RowPlan plan = {{step.window.values[row], step.compressed[0].values[row]},
                          RowPlan::kWhole};
    cpu::attend(
        shape, layer, row,
        cpu::TokenCursor(shape, layer, 0, row, plan, 0, plan.tokens[0] + plan.tokens[1], nullptr),
        partial, reinterpret_cast<std::byte*>(scratch.data()));
    for (int head = 0; head < shape.heads; ++head) cpu::finish(shape, layer, row, head, partial);
  }
  return answer;
}

void expect_close(const Answer& got, const Answer& want) {
  for (size_t vector = 0; vector < want.lse.size(); ++vector) {
    if (std::isinf(want.lse[vector])) {
      EXPECT_EQ(got.lse[vector], want.lse[vector]);
    } else {
      EXPECT_NEAR(got.lse[vector], want.lse[vector],
                  std::max(1e-4, 1e-6 * std::fabs(want.lse[vector])));
    }
    double difference = 0, size = 0;
    for (size_t d = vector * kHeadDim; d < (vector + 1) * kHeadDim; ++d) {
      const double value = float_from_bf16(want.out[d]), gap = float_from_bf16(got.out[d]) - value;
      difference += gap * gap;
      size += value * value;
    }
    ASSERT_LE(std::sqrt(difference), 5e-3 * std::sqrt(size)) << "vector " << vector;
  }
}

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
                         testing::Values(Kernel{1, 8}, Kernel{1, 64}, Kernel{2, 16}, Kernel{4, 8},
                                         kPair32, kPair64));

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
  EXPECT_TRUE(run(inputs, kSplit, {1, 32}) == joined);
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

/// In few clusters, because one of eight blocks is 6,144 threads.
TEST(EmulatedHopper, BitsOfClustersOfEightAreThoseOfPairs) {
  constexpr PlanLimits kOneUnit = {1, 0, 1152, 1}, kTwoTiles = {1, 0, 128, 32},
                       kSplitUnits = {2, 40, 192, 32};
  Inputs large(8, 200, 0, STEADY_CACHE_FP8, 0, 0.15f);
  large.repeat_tokens();
  Inputs not_plain(3, 150, 70, STEADY_CACHE_BF16, 2);  // from pages, the first one by its scale
  not_plain.first_token(0, true)[3] = 135;
  // Of which references move.
  const Inputs rising(5, 380, 230, STEADY_CACHE_FP8, 0, 0.5f),
      shorter(4, 300, 40, STEADY_CACHE_FP8, 0, 0.5f);
  const std::pair<const Inputs*, PlanLimits> calls[] = {{&large, kOneUnit},
                                                        {&not_plain, kOneUnit},
                                                        {&rising, kOneUnit},
                                                        {&shorter, kTwoTiles},
                                                        {&shorter, kSplitUnits}};
  for (const auto& [inputs, limits] : calls) {
    const Answer in_pairs = run(*inputs, limits, {2, 16});
    expect_close(in_pairs, oracle(*inputs));
    EXPECT_TRUE(run(*inputs, limits, {8, 8}) == in_pairs)
        << inputs->shape().heads << " heads, units of " << limits.unit_tokens;
  }
}

}  // namespace
}  // namespace steady::cuda
