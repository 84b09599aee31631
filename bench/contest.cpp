// SPDX-License-Identifier: Apache-2.0
// Contestants in, percentiles of their steps' times out.
#include "bench/contest.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace steady::bench {
namespace {

using Clock = std::chrono::steady_clock;

/// The steps that one contestant has done so far.
struct Record {
  std::vector<double> seconds;
  benchmark::IterationCount steps_a_turn = 0;
  int set = 0;
};

void take_turn(benchmark::State& turn, const Contestant& contestant, int sets, Record* record) {
  // Shorter turns served to find out how many steps a turn needs.
  if (turn.max_iterations != record->steps_a_turn) record->seconds.clear();
  record->steps_a_turn = turn.max_iterations;
  // The threads of whoever had the turn before spin for a while before they sleep.
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  contestant.step(record->set);
  for ([[maybe_unused]] auto _ : turn) {
    record->set = (record->set + 1) % sets;
    const auto begin = Clock::now();
    contestant.step(record->set);
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    turn.SetIterationTime(seconds);
    record->seconds.push_back(seconds);
  }
}

double percentile_us(std::vector<double>& seconds, double part) {
  const auto at = seconds.begin() +
                  static_cast<ptrdiff_t>(part * static_cast<double>(seconds.size() - 1) + 0.5);
  std::nth_element(seconds.begin(), at, seconds.end());
  return *at * 1e6;
}

/// The records say more than Google Benchmark's means.
class SilentReporter : public benchmark::BenchmarkReporter {
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>&) override {}
};

void shuffle_turns() {
  static const bool once = [] {
    char program[] = "steady", option[] = "--benchmark_enable_random_interleaving=true";
    char* arguments[] = {program, option, nullptr};
    int count = 2;
    benchmark::Initialize(&count, arguments);
    return true;
  }();
  static_cast<void>(once);
}

}  // namespace

std::vector<Timing> run_contest(const std::vector<Contestant>& contestants, int sets,
                                const Turns& turns) {
  shuffle_turns();
  std::vector<Record> records(contestants.size());
  for (size_t i = 0; i < contestants.size(); ++i) {
    benchmark::RegisterBenchmark(
        contestants[i].name.c_str(),
        [&, i](benchmark::State& turn) { take_turn(turn, contestants[i], sets, &records[i]); })
        ->UseManualTime()
        ->Repetitions(turns.repetitions)
        ->MinTime(turns.min_seconds);
  }
  SilentReporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  benchmark::ClearRegisteredBenchmarks();

  std::vector<Timing> timings;
  for (size_t i = 0; i < contestants.size(); ++i) {
    std::vector<double>& seconds = records[i].seconds;
    timings.push_back({contestants[i].name, percentile_us(seconds, 0.5),
                       percentile_us(seconds, 0.1), percentile_us(seconds, 0.9)});
  }
  return timings;
}

}  // namespace steady::bench
