// SPDX-License-Identifier: Apache-2.0
// Contestants in, the times of their steps out, measured in turns by Google Benchmark.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace steady::bench {

struct Contestant {
  std::string name;
  std::function<void(int set)> step;
};

/// Of all steps of all turns of a contestant.
struct Timing {
  std::string name;
  double median_us, p10_us, p90_us;

  Timing divided_by(int parts) const {
    return {name, median_us / parts, p10_us / parts, p90_us / parts};
  }
};

struct Turns {
  int repetitions;
  double min_seconds;
};

/// Each contestant gets `repetitions` turns, all of them shuffled. Within a turn the sets of inputs
/// take turns.
std::vector<Timing> run_contest(const std::vector<Contestant>& contestants, int sets,
                                const Turns& turns);

}  // namespace steady::bench
