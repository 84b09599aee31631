// SPDX-License-Identifier: Apache-2.0
// Engines of one and of several threads, and one engine under several callers at once, go in; the
// bits of a single thread come out.
#include <atomic>
#include <functional>
#include <thread>

#include "tests/support/engine.hpp"

namespace steady::test {
namespace {

CaseSpec step_spec(int32_t batch, uint64_t seed) {
  CaseSpec spec;
  spec.heads = 2;
  spec.queries = 2;
  spec.batch = batch;
  spec.max_batch = 9;
  spec.window = {65, STEADY_CACHE_FP8, 16, Lengths::kPerQuery};
  spec.compressed = {{1500, STEADY_CACHE_BF16, 2}};
  spec.seed = seed;
  return spec;
}

void run_at_once(const std::vector<std::function<void()>>& tasks) {
  std::atomic<size_t> ready = 0;
  std::vector<std::thread> threads;
  for (const auto& task : tasks) {
    threads.emplace_back([&ready, &task, count = tasks.size()] {
      ++ready;
      while (ready < count) std::this_thread::yield();
      task();
    });
  }
  for (std::thread& thread : threads) thread.join();
}

class Threads : public OnEveryBackend {};

INSTANTIATE_TEST_SUITE_P(, Threads, kEveryBackend, backend_name);

TEST_P(Threads, OfAnyNumberGiveTheSameBits) {
  for (const int32_t batch : {1, 2, 9}) {
    const HostileCase c(step_spec(batch, 1));
    const Outputs one = run_alone(c, backend(), 1);
    EXPECT_TRUE(close_to(one, c.answer()));
    for (const int32_t threads : {2, 3, 5, 16}) {
      c.reset_outputs();
      EXPECT_TRUE(same_bits(run_alone(c, backend(), threads), one)) << threads << " threads";
      EXPECT_TRUE(c.gaps_untouched());
    }
  }
}

TEST_P(Threads, OfAnyNumberGiveTheSameBitsReplayed) {
  HostileCase c(step_spec(4, 1));
  const Engine one(c.shape(), backend(), 1);
  const Engine many(c.shape(), backend(), 5);
  const Caller caller_of_one(one);
  const Caller caller_of_many(many);
  const Graph graph = caller_of_many.capture(c);
  for (uint64_t seed = 2; seed < 5; ++seed) {
    c.refill(seed);
    caller_of_one.run(c);
    const Outputs want = c.outputs();
    c.reset_outputs();
    caller_of_many.replay(graph);
    EXPECT_TRUE(same_bits(c.outputs(), want));
  }
}

TEST_P(Threads, OfTwoCallersShareAnEngineWithAWorkspaceEach) {
  const HostileCase first(step_spec(5, 1));
  const HostileCase second(step_spec(8, 2));
  const Engine engine(first.shape(), backend(), 2);
  const auto work = [&engine](const HostileCase& c) {
    const Caller caller(engine);
    caller.run(c);
    const Outputs eager = c.outputs();
    const Graph graph = caller.capture(c);
    for (int repeat = 0; repeat < 3; ++repeat) {
      c.reset_outputs();
      caller.replay(graph);
      EXPECT_TRUE(same_bits(c.outputs(), eager));
      EXPECT_TRUE(c.gaps_untouched());
    }
  };
  run_at_once({[&] { work(first); }, [&] { work(second); }});
  EXPECT_TRUE(close_to(first.outputs(), first.answer()));
  EXPECT_TRUE(close_to(second.outputs(), second.answer()));
}

TEST_P(Threads, ManyReplayTheirGraphsOfOneEngine) {
  const Engine engine(HostileCase(step_spec(2, 1)).shape(), backend(), 3);
  const auto work = [&engine](uint64_t seed) {
    HostileCase c(step_spec(2, seed));
    const Caller caller(engine);
    const Graph graph = caller.capture(c);
    for (int step = 0; step < 2; ++step) {
      c.refill(seed + 10 * static_cast<uint64_t>(step));
      caller.replay(graph);
      EXPECT_TRUE(close_to(c.outputs(), c.answer()));
    }
  };
  run_at_once({[&] { work(1); }, [&] { work(2); }, [&] { work(3); }, [&] { work(4); }});
}

TEST_P(Threads, CreateAndDestroyEnginesAtOnce) {
  const HostileCase c(step_spec(1, 1));
  const auto work = [&] {
    for (int repeat = 0; repeat < 5; ++repeat) {
      const Engine engine(c.shape(), backend(), 1 + repeat);
      const Caller caller(engine);
    }
  };
  run_at_once({work, work, work});
}

TEST_P(Threads, HaveErrorsOfTheirOwn) {
  const auto work = [this](int32_t heads) {
    steady_shape shape = HostileCase(step_spec(1, 1)).shape();
    shape.heads = heads;
    const steady_options options = {sizeof(options), backend(), 0, 1, 0};
    for (int repeat = 0; repeat < 20; ++repeat) {
      steady_engine* engine = nullptr;
      EXPECT_EQ(steady_engine_create(&shape, &options, &engine), STEADY_INVALID_ARGUMENT);
      EXPECT_NE(std::string(steady_last_error()).find(std::to_string(heads)), std::string::npos);
    }
  };
  run_at_once({[&] { work(1001); }, [&] { work(2002); }});
}

TEST_P(Threads, WriteOneReportTogether) {
  CaseSpec spec = step_spec(6, 3);
  spec.window.stray_percent = spec.compressed[0].stray_percent = 20;
  spec.window.wild_lengths = spec.compressed[0].wild_lengths = true;
  const HostileCase c(spec);
  const auto report_of = [&](int32_t threads) {
    const Engine engine(c.shape(), {sizeof(steady_options), backend(), 0, threads, 1});
    const Caller caller(engine);
    caller.run(c);
    return caller.report();
  };
  const steady_report one = report_of(1);
  EXPECT_GT(one.stray_slot.count, 100);
  for (const int32_t threads : {2, 3, 16}) {
    const steady_report many = report_of(threads);
    EXPECT_EQ(many.negative_length.count, one.negative_length.count);
    EXPECT_EQ(many.long_length.count, one.long_length.count);
    EXPECT_EQ(many.stray_slot.count, one.stray_slot.count);
    EXPECT_EQ(many.stray_slot.request, one.stray_slot.request);
    EXPECT_EQ(many.stray_slot.query, one.stray_slot.query);
    EXPECT_EQ(many.stray_slot.position, one.stray_slot.position);
    EXPECT_EQ(many.stray_slot.value, one.stray_slot.value);
  }
}

}  // namespace
}  // namespace steady::test
