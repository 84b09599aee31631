// SPDX-License-Identifier: Apache-2.0
// Each stage on the device against the CPU's: plan to the bit, merge fed with the CPU's partials.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "cpu/attend.hpp"
#include "cpu/merge.hpp"
#include "cpu/plan.hpp"
#include "cuda/engine.hpp"
#include "cuda/merge.hpp"
#include "cuda/plan.hpp"
#include "numeric/bf16.hpp"
#include "tests/cuda/device.hpp"

namespace steady::cuda {
namespace {

using test::Common;
using test::OnDevice;

/// A plan's tables in memory that both sides touch, full of garbage at first.
struct CommonTables {
  CommonTables(const Shape& shape, const PlanLimits& limits)
      : header(1),
        parts(limits.parts),
        rows(shape.max_rows()),
        split_rows(limits.parts),
        row_begins(shape.max_rows()),
        layer(1) {
    std::memset(static_cast<void*>(rows.get()), 0xA5, rows.size() * sizeof(RowPlan));
    std::memset(static_cast<void*>(parts.get()), 0xA5, parts.size() * sizeof(PartRange));
  }
  PlanTables plan() const { return {header.get(), parts.get(), rows.get(), split_rows.get()}; }
  Tables tables() const {
    return {plan(), row_begins.get(), nullptr, nullptr, nullptr, layer.get()};
  }

  Common<PlanHeader> header;
  Common<PartRange> parts;
  Common<RowPlan> rows;
  Common<int32_t> split_rows;
  Common<int64_t> row_begins;
  Common<int32_t> layer;
};

class Stages : public OnDevice {};

TEST_F(Stages, PlanEqualsTheCpusToTheBit) {
  std::mt19937 random(3);
  for (int trial = 0; trial < 60; ++trial) {
    const int batch = trial == 0 ? 4096 : 1 + static_cast<int>(random() % 300);
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
    const PlanLimits limits = {1 + static_cast<int>(random() % 140),
                               static_cast<int>(random() % 300), trial % 5 == 0 ? 64 : 1152, 128};
    const CommonTables device(shape, limits), host(shape, limits);
    PlanCall call = {shape, step, limits, 77, {}};
    call.tables[0] = device.tables();
    ASSERT_EQ(launch_plan(call, nullptr), cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    cpu::plan(shape, limits, step, 0, host.plan(), nullptr);

    EXPECT_EQ(device.header[0].seal, 77u);
    EXPECT_EQ(device.header[0].batch, batch);
    ASSERT_EQ(device.header[0].split_count, host.header[0].split_count);
    EXPECT_EQ(std::memcmp(device.parts.get(), host.parts.get(), limits.parts * sizeof(PartRange)),
              0);
    EXPECT_EQ(std::memcmp(device.rows.get(), host.rows.get(), rows * sizeof(RowPlan)), 0);
    EXPECT_TRUE(std::equal(host.split_rows.get(),
                           host.split_rows.get() + host.header[0].split_count,
                           device.split_rows.get()));
  }
}

TEST_F(Stages, MergeOfTheCpusPartialsEqualsTheCpusMerge) {
  constexpr int kHeads = 11, kUnits = 5;
  const Shape shape = {kHeads, 1, 1, 1, 1.0f, {STEADY_CACHE_FP8, 64, 320}, {}};
  const PlanLimits limits = {2, kUnits, 64, kUnits};
  const CommonTables tables(shape, limits);
  Common<SoftmaxState> states((limits.parts + limits.slots) * kHeads);
  Common<float> outs(states.size() * kHeadDim), sink(kHeads), lse(kHeads);
  Common<uint16_t> out(kHeads * kHeadDim);
  std::mt19937 random(8);
  std::normal_distribution<float> normal(0.0f, 2.0f);
  for (size_t i = 0; i < states.size(); ++i)
    states[i] = {normal(random), 1.0f + std::abs(normal(random))};
  for (size_t i = 0; i < outs.size(); ++i) outs[i] = normal(random);
  for (int head = 0; head < kHeads; ++head) {
    sink[head] = head == 0 ? INFINITY : head == 1 ? -INFINITY : normal(random);
    for (int unit = 0; unit < kUnits;
         ++unit) {  // one head has empty units at both ends, one has none
      const size_t at = static_cast<size_t>(limits.parts + unit) * kHeads + head;
      if ((head == 3 && unit % 2 == 0) || head == 4) {
        states[at] = {};
        std::fill_n(outs.get() + at * kHeadDim, kHeadDim, 0.0f);
      }
    }
  }
  tables.header[0] = {77, 1, 1, 0};
  tables.split_rows[0] = 0;
  tables.rows[0] = {{64 * kUnits, 0}, 0};

  Layer layer = {0,          1,  nullptr,          out.get(), lse.get(),
                 sink.get(), {}, {0, 0, kHeadDim}, {0, 0, 1}, {}};
  LayerCall call = {kHeads, 1, 1.0f, 77, limits, layer, tables.tables()};
  call.tables.states = states.get();
  call.tables.outs = outs.get();
  ASSERT_EQ(launch_merge(call, nullptr), cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);

  std::vector<uint16_t> expected(out.size());
  std::vector<float> expected_lse(kHeads);
  layer.out = expected.data();
  layer.lse = expected_lse.data();
  const auto slot = [&](int unit) -> Partial {
    const size_t at = static_cast<size_t>(limits.parts + unit) * kHeads;
    return {states.get() + at, outs.get() + at * kHeadDim};
  };
  for (int head = 0; head < kHeads; ++head) {
    for (int unit = 1; unit < kUnits; ++unit) cpu::merge(slot(0), slot(unit), head);
    cpu::finish(shape, layer, 0, head, slot(0));
    if (std::isinf(expected_lse[head])) {
      EXPECT_EQ(lse[head], expected_lse[head]);
    } else {
      EXPECT_NEAR(lse[head], expected_lse[head], 1e-5);
    }
    for (int d = 0; d < kHeadDim; ++d) {
      const float want = float_from_bf16(expected[head * kHeadDim + d]);
      EXPECT_NEAR(float_from_bf16(out[head * kHeadDim + d]), want, std::abs(want) / 128 + 1e-6);
    }
  }
}

}  // namespace
}  // namespace steady::cuda
