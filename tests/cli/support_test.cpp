// SPDX-License-Identifier: Apache-2.0
// Answers, cells and machines in; distances, tables and roofs out.
#include <gmock/gmock.h>

#include <limits>

#include "support/compare.hpp"
#include "support/roof.hpp"
#include "support/text.hpp"

namespace steady::test {
namespace {

using testing::ElementsAre;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

double relative(const std::vector<float>& a, const std::vector<float>& b) {
  return support::relative_error(std::span<const float>(a), std::span<const float>(b));
}

double lse(const std::vector<float>& a, const std::vector<float>& b) {
  return support::lse_error(a, b);
}

TEST(RelativeError, IsTheDistanceOverTheNorm) {
  EXPECT_DOUBLE_EQ(relative({3, 5}, {3, 4}), 0.2);
  const std::vector<uint16_t> bf16 = {0x4040, 0x40a0};  // 3, 5
  const std::vector<float> reference = {3, 4};
  EXPECT_DOUBLE_EQ(
      support::relative_error(std::span<const uint16_t>(bf16), std::span<const float>(reference)),
      0.2);
}

TEST(RelativeError, IsZeroOfZerosAndInfiniteWhereNothingElseFits) {
  EXPECT_EQ(relative({0, 0}, {0, 0}), 0);
  EXPECT_EQ(relative({0, 1}, {0, 0}), kInfinity);
  EXPECT_EQ(relative({NAN, 1}, {1, 1}), kInfinity);
  EXPECT_EQ(relative({kInfinity, 1}, {kInfinity, 1}), kInfinity);
}

TEST(LseError, IsTheLargestDifferenceAndNoneOfEqualInfinities) {
  EXPECT_EQ(lse({1, -kInfinity, 2}, {1, -kInfinity, 2.5f}), 0.5);
  EXPECT_EQ(lse({kInfinity}, {-kInfinity}), kInfinity);
  EXPECT_EQ(lse({0}, {-kInfinity}), kInfinity);
  EXPECT_EQ(lse({NAN}, {NAN}), kInfinity);
}

TEST(TextTable, AlignsWhatATerminalShows) {
  support::TextTable table("lr", {"name", "µs"});
  table.add({"2×3", "1000"});
  table.add({"long name", "7"});
  EXPECT_THAT(table.lines(), ElementsAre("name         µs", "2×3        1000", "long name     7"));
}

TEST(Roof, IsMeasuredAndGivesTheLongerTime) {
  const int cores = support::usable_cores();
  const support::Roof roof = support::measure_roof(STEADY_CPU);
  EXPECT_GT(roof.copy_gb_per_s, 0.1);
  EXPECT_LT(roof.copy_gb_per_s, 1e5);
  EXPECT_GT(roof.product_gflop_per_s, 0.1 * cores);
  EXPECT_LT(roof.product_gflop_per_s, 1e4 * cores);
  EXPECT_EQ(roof.products, support::format("fp32 FMA on %d threads", cores));

  const support::Roof round = {10, 100, "round ones"};
  EXPECT_DOUBLE_EQ(round.seconds(1e11, 1e9), 1);
  EXPECT_DOUBLE_EQ(round.seconds(1e9, 2e10), 2);
}

}  // namespace
}  // namespace steady::test
