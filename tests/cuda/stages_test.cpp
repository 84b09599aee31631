// SPDX-License-Identifier: Apache-2.0
// Stages on the device against the CPU's: attend fed with the CPU's plan, merge fed with the CPU's
// partials.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "cpu/attend.hpp"
#include "cpu/merge.hpp"
#include "cpu/plan.hpp"
#include "cuda/attend.hpp"
#include "cuda/engine.hpp"
#include "cuda/machine.hpp"
#include "cuda/merge.hpp"
#include "numeric/bf16.hpp"
#include "steady/device.h"
#include "tests/cuda/common_tables.hpp"
#include "tests/cuda/device.hpp"

namespace steady::cuda {
namespace {

using test::Common;
using test::CommonTables;
using test::OnDevice;

class Stages : public OnDevice {};

/// Two scopes of packed tokens for a few rows, with holes, in memory that both sides touch.
class TwoScopes {
 public:
  TwoScopes(const Shape& shape, int rows, std::mt19937* random)
      : q_(static_cast<size_t>(rows) * shape.heads * kHeadDim),
        out_(q_.size()),
        lse_(static_cast<size_t>(rows) * shape.heads) {
    std::normal_distribution<float> normal;
    for (size_t i = 0; i < q_.size(); ++i) q_[i] = bf16_from_float(normal(*random));
    const int64_t head = kHeadDim, row = head * shape.heads;
    layer_ = {0,
              rows,
              q_.get(),
              out_.get(),
              lse_.get(),
              nullptr,
              {row, row, head},
              {row, row, head},
              {shape.heads, shape.heads, 1},
              {}};
    for (int scope = 0; scope < kScopes; ++scope) {
      const steady_pool_shape& pool = shape.scope(0, scope);
      const int64_t stride = steady_page_bytes(pool.format, pool.page_tokens);
      const int pages = pool.max_tokens / pool.page_tokens + 1, tokens = pages * pool.page_tokens;
      pages_[scope] = std::make_unique<Common<uint8_t>>(static_cast<size_t>(pages * stride));
      slots_[scope] =
          std::make_unique<Common<int32_t>>(static_cast<size_t>(rows) * pool.max_tokens);
      for (int token = 0; token < tokens; ++token) {
        float values[kHeadDim];
        for (float& value : values) value = normal(*random);
        uint8_t* page = pages_[scope]->get() + token / pool.page_tokens * stride;
        EXPECT_EQ(steady_pack_token(pool.format, values, page, pool.page_tokens,
                                    token % pool.page_tokens),
                  STEADY_OK);
      }
      for (size_t i = 0; i < slots_[scope]->size(); ++i) {
        const auto slot = static_cast<int32_t>((*random)() % static_cast<unsigned>(tokens));
        (*slots_[scope])[i] = (*random)() % 8 == 0 ? -1 : slot;
      }
      layer_.scopes[scope] = {pool,  pages_[scope]->get(), stride,
                              pages, slots_[scope]->get(), pool.max_tokens};
    }
  }

  const Layer& layer() const { return layer_; }

 private:
  Common<uint16_t> q_, out_;
  Common<float> lse_;
  std::unique_ptr<Common<uint8_t>> pages_[kScopes];
  std::unique_ptr<Common<int32_t>> slots_[kScopes];
  Layer layer_ = {};
};

/// What the oracle makes of one unit.
struct UnitAnswer {
  UnitAnswer(const Shape& shape, const Layer& layer, int row, const RowPlan& plan, int begin,
             int end)
      : states(shape.heads), out(static_cast<size_t>(shape.heads) * kHeadDim) {
    std::vector<std::max_align_t> scratch(
        cpu::attend_scratch_bytes(shape) / sizeof(std::max_align_t) + 1);
    cpu::attend(shape, layer, row,
                cpu::TokenCursor(shape, layer, 0, row, plan, begin, end, nullptr), partial(),
                reinterpret_cast<std::byte*>(scratch.data()));
  }
  Partial partial() { return {states.data(), out.data()}; }

  std::vector<SoftmaxState> states;
  std::vector<float> out;
};

void expect_same_unit(const SoftmaxState& state, const float* out, const SoftmaxState& wanted,
                      const float* wanted_out) {
  ASSERT_EQ(state.sum == 0, wanted.sum == 0);
  if (wanted.sum == 0) return;
  EXPECT_NEAR(state.max + std::log(state.sum), wanted.max + std::log(wanted.sum), 1e-4);
  double difference = 0, size = 0;
  for (int d = 0; d < kHeadDim; ++d) {
    const double value = wanted_out[d] / wanted.sum, gap = out[d] / state.sum - value;
    difference += gap * gap;
    size += value * value;
  }
  EXPECT_LT(std::sqrt(difference / size), 4e-3);
}

/// Launches of each kernel that this card has for `call`, with groups of many and of few heads.
void add_kernels(const Shape& shape, const LayerCall& call,
                 std::vector<std::function<cudaError_t()>>* kernels) {
  cudaDeviceProp card = {};
  ASSERT_EQ(cudaGetDeviceProperties(&card, 0), cudaSuccess);
  ASSERT_EQ(prepare_attend(card.sharedMemPerBlockOptin), cudaSuccess);
  for (const int multiprocessors : {1, 100}) {
    const AttendChoice choice =
        choose_attend(shape, call.layer.batch, multiprocessors, card.sharedMemPerBlockOptin);
    kernels->push_back([&call, choice] { return launch_attend(call, choice, nullptr); });
  }
#if STEADY_WITH_SM90
  if (!has_hopper_kernels(card)) return;
  sm90::Room room = {};
  ASSERT_EQ(sm90::prepare_attend(&room), cudaSuccess);
  const int parts = call.limits.parts;
  for (const sm90::Spread spread :
       {sm90::Spread{1, 1, parts}, sm90::Spread{1, 5, parts}, sm90::Spread{2, 1, parts},
        sm90::Spread{2, 2, parts}, sm90::Spread{2, 3, parts}, sm90::Spread{2, 5, parts},
        sm90::Spread{4, 5, parts}, sm90::Spread{8, 5, parts}}) {
    kernels->push_back([&call, spread] { return sm90::launch_attend(call, spread, nullptr); });
  }
#endif
}

TEST_F(Stages, AttendOnTheCpusPlanLeavesTheCpusPartials) {
  constexpr int kRows = 3, kHeads = 37;
  Shape shape = {kHeads, 1, kRows, 1, 0.05f, {STEADY_CACHE_FP8, 5, 100}, {}};
  shape.compressed[0] = {STEADY_CACHE_BF16, 7, 700};
  std::mt19937 random(21);
  const TwoScopes inputs(shape, kRows, &random);
  Common<int32_t> window(kRows), compressed(kRows);
  const int32_t lengths[kRows][kScopes] = {{100, 613}, {0, 0}, {61, 700}};
  for (int row = 0; row < kRows; ++row) {
    window[row] = lengths[row][0];
    compressed[row] = lengths[row][1];
  }
  Step step = {kRows, {window.get(), 0}, {}};
  step.compressed[0] = {compressed.get(), 0};
  const PlanLimits limits = {5, 40, 128, 16};
  const CommonTables tables(shape, limits);
  cpu::plan(shape, limits, step, 0, tables.plan(), nullptr);
  tables.header[0].seal = 77;
  ASSERT_EQ(tables.header[0].split_count, 2);  // the empty row stays whole

  Common<SoftmaxState> states(static_cast<size_t>(limits.parts + limits.slots) * kHeads);
  Common<float> outs(states.size() * kHeadDim);
  LayerCall call = {kHeads, Divisor(1),     shape.softmax_scale, 77,
                    limits, inputs.layer(), tables.tables()};
  call.tables.states = states.get();
  call.tables.outs = outs.get();
  Common<float> kept(size_t{5} * limits.parts * 64 * kHeadDim);  // for the most groups below
  call.tables.kept = kept.get();
  std::vector<std::function<cudaError_t()>> kernels;
  ASSERT_NO_FATAL_FAILURE(add_kernels(shape, call, &kernels));
  for (const auto& launch : kernels) {
    std::memset(static_cast<void*>(states.get()), 0xff, states.size() * sizeof(SoftmaxState));
    std::memset(static_cast<void*>(outs.get()), 0xff, outs.size() * sizeof(float));
    ASSERT_EQ(launch(), cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    for (const int row : {0, 2}) {
      const RowPlan& plan = tables.rows[row];
      ASSERT_NE(plan.first_slot, RowPlan::kWhole);
      const int tokens = plan.tokens[0] + plan.tokens[1];
      const Units units = cut_row(tokens, limits);
      for (int unit = 0; unit < units.count; ++unit) {
        const int begin = unit * units.tokens_each;
        const UnitAnswer wanted(shape, inputs.layer(), row, plan, begin,
                                std::min(begin + units.tokens_each, tokens));
        for (int head = 0; head < kHeads; ++head) {
          const size_t at = static_cast<size_t>(plan.first_slot + unit) * kHeads + head;
          expect_same_unit(states[at], outs.get() + at * kHeadDim, wanted.states[head],
                           wanted.out.data() + head * kHeadDim);
        }
      }
    }
    const uint16_t* empty_row = inputs.layer().out + kHeads * kHeadDim;
    EXPECT_TRUE(std::all_of(empty_row, empty_row + kHeads * kHeadDim,
                            [](uint16_t bits) { return bits == 0; }));
  }
}

/// Those that this card has.
std::vector<cudaError_t (*)(const LayerCall&, cudaStream_t)> merge_kernels() {
  cudaDeviceProp card = {};
  EXPECT_EQ(cudaGetDeviceProperties(&card, 0), cudaSuccess);
#if STEADY_WITH_SM90
  if (has_hopper_kernels(card)) return {launch_merge, sm90::launch_merge};
#endif
  return {launch_merge};
}

void expect_same_answer(const std::vector<uint16_t>& out, const std::vector<float>& lse,
                        const uint16_t* wanted_out, const float* wanted_lse) {
  for (size_t head = 0; head < lse.size(); ++head) {
    if (std::isinf(wanted_lse[head])) {
      EXPECT_EQ(lse[head], wanted_lse[head]);
    } else {
      EXPECT_NEAR(lse[head], wanted_lse[head], 1e-5);
    }
  }
  for (size_t at = 0; at < out.size(); ++at) {
    const float want = float_from_bf16(wanted_out[at]);
    EXPECT_NEAR(float_from_bf16(out[at]), want, std::abs(want) / 128 + 1e-6);
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
      const size_t at = static_cast<size_t>(unit) * kHeads + head;
      if ((head == 3 && unit % 2 == 0) || head == 4) {
        states[at] = {};
        std::fill_n(outs.get() + at * kHeadDim, kHeadDim, 0.0f);
      }
    }
  }
  tables.header[0] = {77, 1, 1, 0};
  tables.split_rows[0] = 0;
  tables.rows[0] = {{64 * kUnits, 0}, 0};

  const Layer layer = {0,          1,  nullptr,          out.get(), lse.get(),
                       sink.get(), {}, {0, 0, kHeadDim}, {0, 0, 1}, {}};
  LayerCall call = {kHeads, Divisor(1), 1.0f, 77, limits, layer, tables.tables()};
  call.tables.states = states.get();
  call.tables.outs = outs.get();
  std::vector<std::vector<uint16_t>> outs_of_kernels;
  std::vector<std::vector<float>> lses_of_kernels;
  for (const auto& launch : merge_kernels()) {
    std::memset(out.get(), 0xff, out.size() * sizeof(uint16_t));
    std::memset(lse.get(), 0xff, lse.size() * sizeof(float));
    ASSERT_EQ(launch(call, nullptr), cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    outs_of_kernels.emplace_back(out.get(), out.get() + out.size());
    lses_of_kernels.emplace_back(lse.get(), lse.get() + lse.size());
  }

  const auto slot = [&](int unit) -> Partial {
    const size_t at = static_cast<size_t>(unit) * kHeads;
    return {states.get() + at, outs.get() + at * kHeadDim};
  };
  for (int head = 0; head < kHeads; ++head) {
    for (int unit = 1; unit < kUnits; ++unit) cpu::merge(slot(0), slot(unit), head);
    cpu::finish(shape, layer, 0, head, slot(0));
  }
  for (size_t kernel = 0; kernel < outs_of_kernels.size(); ++kernel)
    expect_same_answer(outs_of_kernels[kernel], lses_of_kernels[kernel], out.get(), lse.get());
}

/// Blocks go on to further rows, whether they look at all of them or at those that are listed.
TEST_F(Stages, MergesOfMoreRowsThanBlocksAgree) {
  constexpr int kHeads = 64, kRows = 70, kUnits = 2;
  const Shape shape = {kHeads, 1, kRows, 1, 1.0f, {STEADY_CACHE_FP8, 64, 128}, {}};
  const PlanLimits for_each_row = {kRows, kRows * kUnits, 64, kUnits};
  const CommonTables tables(shape, for_each_row);
  Common<SoftmaxState> states(size_t{kRows} * kUnits * kHeads);
  Common<float> outs(states.size() * kHeadDim), lse(kRows * kHeads);
  Common<uint16_t> out(size_t{kRows} * kHeads * kHeadDim);
  std::mt19937 random(9);
  std::normal_distribution<float> normal(0.0f, 2.0f);
  for (size_t i = 0; i < states.size(); ++i)
    states[i] = {normal(random), 1.0f + std::abs(normal(random))};
  for (size_t i = 0; i < outs.size(); ++i) outs[i] = normal(random);
  tables.header[0] = {77, kRows, kRows, 0};
  for (int row = 0; row < kRows; ++row) {
    tables.split_rows[row] = row;
    tables.rows[row] = {{64 * kUnits, 0}, kUnits * row};
  }
  const int64_t head = kHeadDim, of_row = head * kHeads;
  const Layer layer = {0,       kRows, nullptr,           out.get(),      lse.get(),
                       nullptr, {},    {of_row, 0, head}, {kHeads, 0, 1}, {}};
  LayerCall call = {kHeads, Divisor(1), 1.0f, 77, for_each_row, layer, tables.tables()};
  call.tables.states = states.get();
  call.tables.outs = outs.get();
  ASSERT_EQ(launch_merge(call, nullptr), cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  const std::vector<uint16_t> wanted(out.get(), out.get() + out.size());
  const std::vector<float> wanted_lse(lse.get(), lse.get() + lse.size());
  for (const auto& launch : merge_kernels()) {
    for (const int parts : {kRows, kRows - 1}) {  // fewer make Hopper's go by the list
      if (launch == &launch_merge && parts < kRows)
        continue;  // the portable one has a block a part
      call.limits.parts = parts;
      std::memset(out.get(), 0xff, out.size() * sizeof(uint16_t));
      std::memset(lse.get(), 0xff, lse.size() * sizeof(float));
      ASSERT_EQ(launch(call, nullptr), cudaSuccess);
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      expect_same_answer(wanted, wanted_lse, out.get(), lse.get());
    }
  }
}

}  // namespace
}  // namespace steady::cuda
