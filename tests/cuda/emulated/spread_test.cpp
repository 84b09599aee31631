// SPDX-License-Identifier: Apache-2.0
// Shapes, batches and cards in, how Hopper's attend spreads over the card out. It stands beside the
// kernels in their source, so it is tested where that is compiled for the host.
#include <gtest/gtest.h>

#include <array>

#include "core/shape.hpp"
#include "core/work.hpp"
#include "cuda/sm90/attend.hpp"

namespace steady::cuda {
namespace {

TEST(HopperSpread, ManyRowsTakeWholeVectorsAndFewRowsSpread) {
  const auto spread = [](int heads, int rows, int compressed = 512, int page_tokens = 64,
                         int fours = 32, int eights = 0) {
    Shape shape = {heads, 1, 4096, 1, 1.0f, {STEADY_CACHE_FP8, 64, 128}, {}};
    shape.compressed[0] = {STEADY_CACHE_FP8, page_tokens, compressed};
    const PlanLimits limits = {heads <= 64 ? 132 : 66, 128, 1152, 128};
    const sm90::Spread is = sm90::choose_spread(shape, limits, rows, sm90::Room{66, fours, eights});
    return std::array{is.cluster, sm90::group_heads(heads, is.groups), is.parts};
  };
  using Is = std::array<int, 3>;
  EXPECT_EQ(spread(64, 4096), (Is{1, 64, 128}));  // 32 rows each
  EXPECT_EQ(spread(64, 128, 8192), (Is{1, 64, 128}));
  EXPECT_EQ(spread(64, 67, 8192), (Is{1, 64, 132}));  // four units each, and eight more
  EXPECT_EQ(spread(64, 67), (Is{1, 64, 67}));
  EXPECT_EQ(spread(64, 67, 512, 3'000'000), (Is{1, 64, 67}));
  EXPECT_EQ(spread(64, 67, 512, 4'000'000), (Is{2, 64, 66}));  // a page beyond 2 GiB
  EXPECT_EQ(spread(64, 66), (Is{2, 64, 66}));
  EXPECT_EQ(spread(64, 33), (Is{2, 32, 33}));
  EXPECT_EQ(spread(64, 16), (Is{4, 32, 16}));
  EXPECT_EQ(spread(64, 8), (Is{4, 16, 8}));
  EXPECT_EQ(spread(64, 8, 512, 64, 31), (Is{4, 24, 8}));
  EXPECT_EQ(spread(64, 16, 512, 64, 31), (Is{2, 16, 16}));
  EXPECT_EQ(spread(128, 8, 512, 64, 31), (Is{2, 16, 8}));
  EXPECT_EQ(spread(16, 66), (Is{2, 16, 66}));
  EXPECT_EQ(spread(16, 67), (Is{2, 16, 66}));   // in two rounds
  EXPECT_EQ(spread(16, 256), (Is{2, 16, 64}));  // in four
  EXPECT_EQ(spread(17, 67), (Is{1, 24, 67}));
  EXPECT_EQ(spread(16, 67, 128), (Is{1, 16, 67}));  // short rows
  EXPECT_EQ(spread(16, 67, 129), (Is{2, 16, 66}));
  EXPECT_EQ(spread(64, 1), (Is{4, 8, 1}));
  EXPECT_EQ(spread(64, 1, 8192), (Is{4, 16, 8}));  // eight units
  EXPECT_EQ(spread(64, 8, 8192), (Is{2, 64, 64}));
  EXPECT_EQ(spread(64, 16, 8192), (Is{2, 64, 64}));  // two units each
  EXPECT_EQ(spread(64, 17, 8192), (Is{2, 64, 66}));  // 46 parts of three would leave too many idle
  EXPECT_EQ(spread(128, 4096), (Is{1, 64, 66}));
  EXPECT_EQ(spread(128, 33), (Is{2, 64, 33}));
  EXPECT_EQ(spread(72, 4096), (Is{1, 40, 66}));  // and 32
  EXPECT_EQ(spread(1, 1), (Is{4, 8, 1}));
  EXPECT_EQ(spread(64, 1, 512, 64, 32, 15), (Is{8, 8, 1}));  // half of the room
  EXPECT_EQ(spread(64, 1, 512, 64, 32, 14), (Is{4, 8, 1}));
  EXPECT_EQ(spread(64, 2, 512, 64, 32, 15), (Is{4, 8, 2}));
  EXPECT_EQ(spread(16, 4, 512, 64, 32, 15), (Is{8, 8, 4}));
  EXPECT_EQ(spread(16, 5, 512, 64, 32, 15), (Is{4, 8, 5}));
  EXPECT_EQ(spread(72, 1, 512, 64, 32, 15), (Is{4, 8, 1}));
}

TEST(HopperSpread, AGroupOfEverySizeHasHeadsAndFitsAMultiprocessor) {
  for (int heads = 1; heads <= STEADY_MAX_HEADS; ++heads) {
    for (const int largest : {8, 16, 24, 32, 64}) {
      const int groups = (heads + largest - 1) / largest, group = sm90::group_heads(heads, groups);
      EXPECT_LE(group, largest) << heads;
      EXPECT_LT((groups - 1) * group, heads) << heads << " by " << largest;
      EXPECT_GE(groups * group, heads) << heads << " by " << largest;
    }
  }
  for (const int group : {8, 16, 32, 64}) {
    EXPECT_LE(sm90::shared_bytes(1, 1, group), size_t{227} << 10);
    EXPECT_LE(sm90::shared_bytes(2, 1, group), size_t{227} << 10);
  }
  for (const int group : {8, 16, 24, 32})
    EXPECT_LE(sm90::shared_bytes(4, 1, group), size_t{227} << 10);
  EXPECT_LE(sm90::shared_bytes(8, 1, 8), size_t{227} << 10);
  EXPECT_LE(sm90::shared_bytes(1, 2, 64), size_t{227} << 10);
}

}  // namespace
}  // namespace steady::cuda
