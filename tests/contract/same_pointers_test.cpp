// SPDX-License-Identifier: Apache-2.0
// A captured step goes in; a thousand replays come out, of which none allocates and all write where
// the first one wrote.
#include <algorithm>
#include <cstring>
#include <limits>

#include "support/alloc_counter.hpp"
#include "tests/support/engine.hpp"

namespace steady::test {
namespace {

using support::AllocationScope;
using support::CountedThreads;

CaseSpec small_model() {
  CaseSpec spec;
  spec.heads = 2;
  spec.window = {5, STEADY_CACHE_FP8, 3, Lengths::kPerQuery};
  spec.compressed = {{}, {9, STEADY_CACHE_FP8, 2}, {7, STEADY_CACHE_BF16, 4}};
  spec.layers = {0, 1, 2, 1};
  return spec;
}

// `work`, which does the same each time, allocates nothing in `times` times. The threads of a
// driver allocate now and then, so where there is a device it is enough if one in five times is
// clean.
template <typename Work>
void expect_nothing_moved(int times, CountedThreads threads, const Work& work) {
  constexpr int kTries = 5;
  int64_t all = 0, fewest = std::numeric_limits<int64_t>::max();
  for (int attempt = 0; attempt < kTries; ++attempt) {
    const AllocationScope scope(threads);
    for (int time = 0; time < times / kTries; ++time) work(time);
    const support::AllocationCount count = scope.count();
    all += count.allocations + count.frees;
    fewest = std::min(fewest, count.allocations + count.frees);
  }
  EXPECT_EQ(has_usable_device() ? fewest : all, 0);
}

class SamePointers : public OnEveryBackend {
 protected:
  CountedThreads own_threads() const {
    return is_device() ? CountedThreads::kCaller : CountedThreads::kAll;
  }
};

INSTANTIATE_TEST_SUITE_P(, SamePointers, kEveryBackend, backend_name);

TEST_P(SamePointers, TheAllocatorTrapSeesAllocations) {
  const AllocationScope scope;
  const Engine engine(HostileCase(small_model()).shape(), backend());
  EXPECT_GT(scope.count().allocations, 0);
}

TEST_P(SamePointers, AThousandReplaysAllocateNothingAndWriteWhereTheFirstDid) {
  const HostileCase c(small_model());
  const Engine engine(c.shape(), backend(), 3);
  const Caller caller(engine);
  const Graph graph = caller.capture(c);
  if (is_device()) caller.replay(graph);  // a driver loads kernels when they first run
  const int32_t lengths[] = {c.window_lengths()[0], c.window_lengths()[1]};
  expect_nothing_moved(1000, own_threads(), [&](int replay) {
    for (int32_t row = 0; row < 2; ++row) c.window_lengths()[row] = replay % 2 * lengths[row];
    caller.replay(graph);
  });
  for (size_t layer = 0; layer < c.layers.size(); ++layer)
    EXPECT_TRUE(close_to(c.outputs(layer), c.answer(layer)));
  EXPECT_TRUE(c.gaps_untouched());
}

TEST_P(SamePointers, AnEagerStepAllocatesNothing) {
  const HostileCase c(small_model());
  const Engine engine(c.shape(), {sizeof(steady_options), backend(), 0, 3, 1});
  const Caller caller(engine);
  if (is_device()) caller.run(c);  // a driver loads kernels when they first run
  expect_nothing_moved(10, own_threads(), [&](int) {
    caller.run(c);
    if (!is_device()) caller.report();  // a driver stages what it copies to the host
  });
}

TEST_P(SamePointers, AGraphKeepsThePointersAndNotTheStructs) {
  HostileCase c(small_model());
  const Engine engine(c.shape(), backend());
  const Caller caller(engine);
  const steady_step step = c.step;
  const std::vector<steady_layer> layers = c.layers;
  const Graph graph = caller.capture(c);
  std::memset(&c.step, 0xA5, sizeof(c.step));
  std::memset(c.layers.data(), 0xA5, c.layers.size() * sizeof(steady_layer));
  caller.replay(graph);
  c.step = step;
  c.layers = layers;
  for (size_t layer = 0; layer < c.layers.size(); ++layer)
    EXPECT_TRUE(close_to(c.outputs(layer), c.answer(layer)));
}

TEST_P(SamePointers, NoCallChangesItsInputs) {
  const HostileCase c(small_model());
  const HostileCase same(small_model());
  run_alone(c, backend());
  for (size_t layer = 0; layer < c.layers.size(); ++layer) {
    const Answer after = c.answer(layer);
    const Answer before = same.answer(layer);
    EXPECT_EQ(std::memcmp(after.out.data(), before.out.data(), sizeof(double) * after.out.size()),
              0);
  }
}

}  // namespace
}  // namespace steady::test
