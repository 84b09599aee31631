// SPDX-License-Identifier: Apache-2.0
// A graph captured over some lengths, slots, queries and caches goes in, then others in their
// places; each replay answers for what is there at that moment.
#include <algorithm>

#include "tests/support/engine.hpp"

namespace steady::test {
namespace {

CaseSpec step_spec(int32_t batch, uint64_t seed) {
  CaseSpec spec;
  spec.batch = batch;
  spec.max_batch = 6;
  spec.queries = 2;
  spec.window = {133, STEADY_CACHE_FP8, 64, Lengths::kPerQuery};
  spec.compressed = {{700, STEADY_CACHE_BF16, 2}};
  spec.seed = seed;
  return spec;
}

void set_lengths(const HostileCase& c, int32_t window, int32_t compressed) {
  std::fill_n(c.window_lengths(), int64_t{c.spec().batch} * c.spec().queries, window);
  std::fill_n(c.compressed_lengths(), c.spec().batch, compressed);
}

// The graph answers for what the case holds now, as an eager run does, bit for bit.
void expect_fresh(const Caller& caller, const Graph& graph, const HostileCase& c) {
  c.reset_outputs();
  caller.replay(graph);
  const Outputs replayed = c.outputs();
  EXPECT_TRUE(close_to(replayed, c.answer()));
  EXPECT_TRUE(c.gaps_untouched());
  caller.run(c);
  EXPECT_TRUE(same_bits(replayed, c.outputs()));
}

class NeverStale : public OnEveryBackend {};

INSTANTIATE_TEST_SUITE_P(, NeverStale, kEveryBackend, backend_name);

TEST_P(NeverStale, CapturedWithDummyLengthsReplayedWithOthers) {
  for (const bool full : {false, true}) {
    HostileCase c(step_spec(3, 1));
    const Engine engine(c.shape(), backend());
    const Caller caller(engine);
    set_lengths(c, full ? 133 : 0, full ? 700 : 0);
    c.refill_contents(2);
    caller.run(c);  // what a warm-up does
    const Graph graph = caller.capture(c);
    for (uint64_t seed = 10; seed < 14; ++seed) {
      c.refill(seed);
      expect_fresh(caller, graph, c);
    }
    set_lengths(c, full ? 0 : 133, full ? 0 : 700);
    c.refill_contents(3);
    expect_fresh(caller, graph, c);
  }
}

TEST_P(NeverStale, CapturedBeforeThereIsAnythingButGarbage) {
  HostileCase c(step_spec(3, 1));
  const Engine engine(c.shape(), backend());
  const Caller caller(engine);
  set_lengths(c, -77, 123456789);
  const Graph graph = caller.capture(c);
  EXPECT_TRUE(c.outputs_untouched()) << "a recorded call has run";
  c.refill(5);
  expect_fresh(caller, graph, c);
}

TEST_P(NeverStale, TwoGraphsShareOneWorkspaceInTurn) {
  HostileCase small(step_spec(2, 1));
  HostileCase large(step_spec(5, 2));
  const Engine engine(small.shape(), backend());
  const Caller caller(engine);
  const Graph small_graph = caller.capture(small);
  const Graph large_graph = caller.capture(large);
  for (uint64_t seed = 20; seed < 23; ++seed) {
    small.refill(seed);
    large.refill(seed + 100);
    expect_fresh(caller, small_graph, small);
    expect_fresh(caller, large_graph, large);
    expect_fresh(caller, large_graph, large);
    expect_fresh(caller, small_graph, small);
  }
}

TEST_P(NeverStale, AnEagerStepBetweenReplaysDisturbsNothing) {
  HostileCase c(step_spec(2, 1));
  HostileCase other(step_spec(6, 2));
  const Engine engine(c.shape(), backend());
  const Caller caller(engine);
  const Graph graph = caller.capture(c);
  for (uint64_t seed = 30; seed < 33; ++seed) {
    c.refill(seed);
    caller.run(other);
    expect_fresh(caller, graph, c);
  }
}

TEST_P(NeverStale, AGraphReplaysInAnyStreamOfItsEngine) {
  HostileCase c(step_spec(2, 1));
  const Engine engine(c.shape(), backend());
  const Caller caller(engine);
  const Caller other(engine);
  const Graph graph = caller.capture(c);
  for (const steady_stream stream : {other.stream(), steady_stream{nullptr}}) {
    c.refill(8);
    ASSERT_TRUE(ok(steady_graph_replay(graph.get(), stream)));
    ASSERT_TRUE(ok(steady_stream_wait(engine.get(), stream)));
    EXPECT_TRUE(close_to(c.outputs(), c.answer()));
  }
}

TEST_P(NeverStale, DecodeUsesThePlannedLengthsWhateverBecameOfTheirArrays) {
  HostileCase c(step_spec(4, 9));
  const Answer answer = c.answer();
  const Engine engine(c.shape(), backend());
  const Caller caller(engine);
  ASSERT_TRUE(ok(steady_plan(engine.get(), caller.workspace(), &c.step, nullptr)));
  ASSERT_TRUE(ok(steady_stream_wait(engine.get(), nullptr)));
  set_lengths(c, 5, -1);
  ASSERT_TRUE(ok(steady_decode(engine.get(), caller.workspace(), &c.step, &c.layers[0], nullptr)));
  ASSERT_TRUE(ok(steady_stream_wait(engine.get(), nullptr)));
  EXPECT_TRUE(close_to(c.outputs(), answer));
}

}  // namespace
}  // namespace steady::test
