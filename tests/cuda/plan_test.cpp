// SPDX-License-Identifier: Apache-2.0
// Plan on the device against the CPU's, to the bit.
#include "cuda/plan.hpp"

#include <algorithm>
#include <cstring>
#include <random>

#include "cpu/plan.hpp"
#include "tests/cuda/common_tables.hpp"
#include "tests/cuda/device.hpp"

namespace steady::cuda {
namespace {

using test::Common;
using test::CommonTables;

class PlanOnDevice : public test::OnDevice {};

/// Plans on the device and on the host; returns how many rows are split.
int expect_same_plan(const Shape& shape, const PlanLimits& limits, const Step& step) {
  const CommonTables device(shape, limits), host(shape, limits);
  PlanCall call = {shape, step, {limits}, 77, {}};
  call.tables[0] = device.tables();
  EXPECT_EQ(launch_plan(call, nullptr), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  cpu::plan(shape, limits, step, 0, host.plan(), nullptr);

  const int rows = step.batch * shape.queries, split = host.header[0].split_count;
  EXPECT_EQ(device.header[0].seal, 77u);
  EXPECT_EQ(device.header[0].batch, step.batch);
  EXPECT_EQ(device.header[0].split_count, split);
  EXPECT_EQ(std::memcmp(device.parts.get(), host.parts.get(), limits.parts * sizeof(PartRange)), 0);
  EXPECT_EQ(std::memcmp(device.rows.get(), host.rows.get(), rows * sizeof(RowPlan)), 0);
  EXPECT_TRUE(
      std::equal(host.split_rows.get(), host.split_rows.get() + split, device.split_rows.get()));
  return split;
}

TEST_F(PlanOnDevice, EqualsTheCpusToTheBit) {
  std::mt19937 random(3);
  for (int trial = 0; trial < 60; ++trial) {
    const int batch = trial == 0 ? STEADY_MAX_BATCH : 1 + static_cast<int>(random() % 300);
    const int queries = trial == 0 ? 8 : 1 + static_cast<int>(random() % 3), rows = batch * queries;
    Shape shape = {8, queries, batch, 1, 1.0f, {STEADY_CACHE_FP8, 64, 128}, {}};
    shape.compressed[0] = {STEADY_CACHE_FP8, 64, trial % 2 == 0 ? 65536 : 1024};
    Common<int32_t> window(rows), compressed(rows);
    for (int row = 0; row < rows; ++row) {
      window[row] = static_cast<int32_t>(random() % 140) - 5;
      compressed[row] = static_cast<int32_t>(random() % (trial % 3 == 0 ? 70000 : 900)) - 5;
    }
    Step step = {batch, {window.get(), trial % 4 == 0 ? 0 : 1}, {}};
    step.compressed[0] = {compressed.get(), 1};
    const int slots = trial % 4 == 1 ? 0 : static_cast<int>(random() % 300);
    PlanLimits limits = {1 + static_cast<int>(random() % 140), slots, trial % 5 == 0 ? 64 : 1152,
                         128};
    if (trial % 5 == 1) limits.whole_tokens = 640;
    expect_same_plan(shape, limits, step);
  }
}

TEST_F(PlanOnDevice, OfRowsThatHaveAPartEachEqualsTheCpusToTheBit) {
  constexpr int kParts = 66;
  std::mt19937 random(5);
  for (const int batch : {1, 2, kParts - 1, kParts, kParts + 1}) {
    for (const int slots : {0, 40}) {
      for (const bool one_is_long : {false, true}) {
        Shape shape = {8, 1, batch, 1, 1.0f, {STEADY_CACHE_FP8, 64, 0}, {}};
        shape.compressed[0] = {STEADY_CACHE_FP8, 64, 4096};
        Common<int32_t> lengths(batch);
        for (int row = 0; row < batch; ++row) lengths[row] = static_cast<int32_t>(random() % 1153);
        lengths[batch / 2] = one_is_long ? 3000 : 0;
        Step step = {batch, {}, {}};
        step.compressed[0] = {lengths.get(), 0};
        expect_same_plan(shape, {kParts, slots, 1152, 128}, step);
      }
    }
  }
}

TEST_F(PlanOnDevice, OfRowsThatAreAllSplitEqualsTheCpusToTheBit) {
  std::mt19937 random(4);
  int all_split = 0, without_slots = 0;
  for (int trial = 0; trial < 60; ++trial) {
    // The last ones have more rows than the block has threads, few of them of several units.
    const bool many = trial >= 50;
    const int batch = many ? 3000 : 1 + static_cast<int>(random() % 60);
    Shape shape = {8, 1, batch, 1, 1.0f, {STEADY_CACHE_FP8, 64, 0}, {}};
    shape.compressed[0] = {STEADY_CACHE_FP8, 64, 65536};
    Common<int32_t> lengths(batch);
    int units = 0, several = 0;
    for (int row = 0; row < batch; ++row) {
      const bool is_long = !many || row % 97 == 5;
      lengths[row] = static_cast<int32_t>(random() % (is_long ? 9000 : 1100));
      const int own = cut_row(lengths[row], {1, 0, 1152, 128}).count;
      units += own > 1 ? own : 0;
      several += own > 1 ? 1 : 0;
    }
    Step step = {batch, {}, {}};
    step.compressed[0] = {lengths.get(), 0};
    const int slots = trial % 4 == 0 ? 0 : static_cast<int>(random() % 40);
    const PlanLimits limits = {1 + static_cast<int>(random() % 140), slots, 1152, 128,
                               std::max(slots, units - 1 + trial % 3)};
    const int split = expect_same_plan(shape, limits, step);
    if (units == 0 || units > limits.all_slots || several >= limits.parts) continue;
    EXPECT_EQ(split, several);
    ++all_split;
    without_slots += slots == 0 ? 1 : 0;
  }
  EXPECT_GT(all_split, 10);
  EXPECT_GT(without_slots, 2);
}

}  // namespace
}  // namespace steady::cuda
