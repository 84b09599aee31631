// SPDX-License-Identifier: Apache-2.0
// The fast attend and merge against the oracle's, unit by unit, on every instruction set of this
// machine.
#include <gtest/gtest.h>
#include <hwy/highway.h>
#include <hwy/targets.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "core/workspace.hpp"
#include "cpu/kernels.hpp"
#include "cpu/simd/attend.hpp"
#include "numeric/bf16.hpp"
#include "numeric/ue8m0.hpp"
#include "steady/device.h"

namespace steady::cpu {
namespace {

/// Aligned memory that starts as NaN, so that nothing unwritten passes for an answer.
template <class T>
class Poisoned {
 public:
  explicit Poisoned(size_t count)
      : data_(static_cast<T*>(
            ::operator new(count * sizeof(T), std::align_val_t(kWorkspaceAlignment)))) {
    std::memset(static_cast<void*>(data_.get()), 0xff, count * sizeof(T));
  }
  T* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* memory) const {
      ::operator delete(memory, std::align_val_t(kWorkspaceAlignment));
    }
  };
  std::unique_ptr<T, Free> data_;
};

struct Answer {
  explicit Answer(int heads) : states(heads), out(static_cast<size_t>(heads) * kHeadDim) {}
  Partial partial() const { return {states.get(), out.get()}; }
  Poisoned<SoftmaxState> states;
  Poisoned<float> out;
};

/// One row of `heads` heads over a pool of `format` whose every token is selected once, in random
/// order.
class Unit {
 public:
  Unit(int heads, int tokens, steady_cache_format format, uint32_t seed)
      : shape{heads, 1, 1, 1, 0.05f, {format, kPageTokens, tokens}, {}} {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0f, 1.0f);
    const int pages = tokens / kPageTokens + 1;
    stride_ = steady_page_bytes(format, kPageTokens) + 6;
    pool_.assign(stride_ * pages, 0xff);
    for (int slot = 0; slot < tokens; ++slot) {
      float values[kHeadDim];
      for (float& value : values) value = normal(random);
      EXPECT_EQ(steady_pack_token(format, values, pool_.data() + slot / kPageTokens * stride_,
                                  kPageTokens, slot % kPageTokens),
                STEADY_OK);
      slots_.push_back(slot);
    }
    std::shuffle(slots_.begin(), slots_.end(), random);
    for (int i = 0; i < tokens / 7; ++i) slots_[random() % tokens] = -1;
    for (int i = 0; i < heads * kHeadDim; ++i) q_.push_back(bf16_from_float(normal(random)));
    layer = {0,         1, q_.data(), nullptr, nullptr, nullptr, {0, 0, kHeadDim}, {0, 0, kHeadDim},
             {0, 0, 1}, {}};
    layer.scopes[0] = {shape.window, pool_.data(), stride_, pages, slots_.data(), tokens};
    plan = {{tokens, 0}, RowPlan::kWhole};
  }

  uint8_t* scales(int slot) {
    return pool_.data() + slot / kPageTokens * stride_ +
           steady_fp8_scales_offset(kPageTokens, slot % kPageTokens);
  }

  Answer attend(const Kernels& kernels, int begin, int end) const {
    Answer answer(shape.heads);
    const Poisoned<std::byte> scratch(kernels.scratch_bytes(shape));
    kernels.attend(shape, layer, 0, TokenCursor(shape, layer, 0, 0, plan, begin, end, nullptr),
                   answer.partial(), scratch.get());
    return answer;
  }

  static constexpr int kPageTokens = 5;
  Shape shape;
  Layer layer;
  RowPlan plan;

 private:
  int64_t stride_;
  std::vector<uint8_t> pool_;
  std::vector<int32_t> slots_;
  std::vector<uint16_t> q_;
};

void expect_close(const Answer& fast, const Answer& exact, int heads) {
  for (int head = 0; head < heads; ++head) {
    const SoftmaxState& a = fast.states.get()[head];
    const SoftmaxState& b = exact.states.get()[head];
    ASSERT_EQ(a.sum == 0, b.sum == 0);
    if (b.sum == 0) continue;
    ASSERT_NEAR(a.max + std::log(a.sum), b.max + std::log(b.sum), 1e-4);
    double difference = 0, size = 0;
    for (int d = 0; d < kHeadDim; ++d) {
      const double x = fast.out.get()[head * kHeadDim + d] / a.sum;
      const double y = exact.out.get()[head * kHeadDim + d] / b.sum;
      difference += (x - y) * (x - y);
      size += y * y;
    }
    ASSERT_LT(std::sqrt(difference / size), 1e-5) << "head " << head;
  }
}

/// Runs `body` once for each instruction set that the fast path may choose here.
template <class Body>
void on_every_instruction_set(const Body& body) {
  // Without vectors there is no fast path.
  const int64_t supported = hwy::SupportedTargets() & HWY_TARGETS & ~(HWY_SCALAR | HWY_EMU128);
  std::set<std::string> seen;
  for (int64_t targets = supported; targets != 0; targets &= targets - 1) {
    hwy::SetSupportedTargetsForTest(targets & -targets);
    hwy::GetChosenTarget().DeInit();
    SCOPED_TRACE(simd::target_name());
    EXPECT_TRUE(seen.insert(simd::target_name()).second) << "ran twice";
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().DeInit();
  EXPECT_GE(seen.size(), 1u);
}

TEST(FastAttend, AgreesWithTheOracleForEveryHeadCountUpToTwoBlocks) {
  on_every_instruction_set([] {
    for (int heads : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}) {
      const Unit unit(heads, 70, STEADY_CACHE_FP8, heads);
      expect_close(unit.attend(kSimdKernels, 0, 70), unit.attend(kOracleKernels, 0, 70), heads);
    }
  });
}

TEST(FastAttend, AgreesWithTheOracleForEveryTileFill) {
  on_every_instruction_set([] {
    for (auto format : {STEADY_CACHE_FP8, STEADY_CACHE_BF16}) {
      const Unit unit(3, 200, format, 9);
      for (int tokens = 0; tokens <= 200; tokens += tokens < 70 ? 1 : 13) {
        expect_close(unit.attend(kSimdKernels, 200 - tokens, 200),
                     unit.attend(kOracleKernels, 200 - tokens, 200), 3);
      }
    }
  });
}

TEST(FastAttend, AgreesWithTheOracleWhenLaterTilesRaiseTheMaximum) {
  on_every_instruction_set([] {
    Unit unit(5, 256, STEADY_CACHE_FP8, 4);
    for (int slot = 0; slot < 256; ++slot) {
      for (int i = 0; i < STEADY_FP8_SCALES; ++i) {
        unit.scales(slot)[i] = static_cast<uint8_t>(unit.scales(slot)[i] + slot / 64);
      }
    }
    expect_close(unit.attend(kSimdKernels, 0, 256), unit.attend(kOracleKernels, 0, 256), 5);
  });
}

TEST(FastMerge, EqualsTheOraclesMerge) {
  on_every_instruction_set([] {
    const Unit unit(2, 128, STEADY_CACHE_FP8, 5);
    for (int middle : {0, 1, 64, 128}) {
      const Answer a = unit.attend(kOracleKernels, 0, middle),
                   b = unit.attend(kOracleKernels, middle, 128);
      const Answer c = unit.attend(kOracleKernels, 0, middle),
                   whole = unit.attend(kOracleKernels, 0, 128);
      for (int head = 0; head < 2; ++head) {
        kOracleKernels.merge(a.partial(), b.partial(), head);
        kSimdKernels.merge(c.partial(), b.partial(), head);
      }
      expect_close(a, whole, 2);
      expect_close(c, whole, 2);
    }
  });
}

TEST(FastMerge, FinishesToTheBitsOfTheOracle) {
  on_every_instruction_set([] {
    const Unit unit(4, 33, STEADY_CACHE_BF16, 6);
    const float sinks[4] = {0.5f, -HUGE_VALF, HUGE_VALF, 3.0f};
    std::vector<uint16_t> fast(4 * kHeadDim + 1, 0x7777), exact(fast);
    Layer layer = unit.layer;
    layer.sink = sinks;
    const Answer answer = unit.attend(kOracleKernels, 0, 33);
    answer.out.get()[3 * kHeadDim] = std::nanf("");
    for (int head = 0; head < 4; ++head) {
      layer.out = exact.data();
      kOracleKernels.finish(unit.shape, layer, 0, head, answer.partial());
      layer.out = fast.data();
      kSimdKernels.finish(unit.shape, layer, 0, head, answer.partial());
    }
    EXPECT_EQ(fast, exact);
    EXPECT_EQ(fast.back(), 0x7777) << "finish wrote behind the row";
    EXPECT_TRUE(std::isnan(float_from_bf16(fast[3 * kHeadDim])));
  });
}

}  // namespace
}  // namespace steady::cpu
