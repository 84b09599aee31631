// SPDX-License-Identifier: Apache-2.0
// Inputs in, a whole call's answer out: by emulated kernels on the CPU's plan, and by the oracle.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <ostream>
#include <vector>

#include "cpu/attend.hpp"
#include "cpu/merge.hpp"
#include "cpu/plan.hpp"
#include "cuda/attend.hpp"
#include "cuda/merge.hpp"
#include "cuda/sm90/attend.hpp"
#include "numeric/bf16.hpp"
#include "steady/device.h"
#include "tests/cuda/emulated/inputs.hpp"

namespace steady::cuda {

struct Answer {
  explicit Answer(const Shape& shape)
      : out(size_t{kRows} * shape.heads * kHeadDim, kUnwritten),
        lse(size_t{kRows} * shape.heads, kUnwritten) {}
  bool operator==(const Answer& other) const {
    return out == other.out &&
           std::memcmp(lse.data(), other.lse.data(), lse.size() * sizeof(float)) == 0;
  }
  static constexpr uint16_t kUnwritten = 0x4242;  // nor is it what a call without a plan writes
  std::vector<uint16_t> out;
  std::vector<float> lse;
  int split_rows = 0;  // by the plan
};

/// One kernel and how many heads its blocks do together; of Hopper's, how many share a row's
/// values: one has whole vectors, and shares tokens with another one where heads are two groups. Of
/// two, those with up to sixteen heads do them as columns.
struct Kernel {
  int cluster;  // kPortable: not Hopper's
  int heads;
  int more_than = 0;  // heads, or another kernel would do them
  static constexpr int kPortable = 0;
};

inline void PrintTo(const Kernel& kernel, std::ostream* out) {
  if (kernel.cluster == Kernel::kPortable) {
    *out << "portable by " << kernel.heads;
  } else {
    *out << "hopper by " << kernel.heads << " in " << kernel.cluster;
  }
}

inline AttendChoice portable_choice(const Shape& shape, int heads) {
  for (const int rows : {1000, 1}) {
    for (const size_t limit : {size_t{227} << 10, size_t{120} << 10, size_t{90} << 10}) {
      const AttendChoice choice = choose_attend(shape, rows, 1, limit);
      if (choice.heads == heads) return choice;
    }
  }
  ADD_FAILURE() << "no choice of " << heads << " heads";
  return {};
}

inline constexpr uint64_t kSeal = 77;

/// The whole call, planned by the CPU; `spoil` may change what the plan says of itself.
inline Answer run(const Inputs& inputs, const PlanLimits& limits, const Kernel& kernel,
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

inline Answer oracle(const Inputs& inputs) {
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

inline void expect_close(const Answer& got, const Answer& want) {
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

}  // namespace steady::cuda
