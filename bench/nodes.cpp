// SPDX-License-Identifier: Apache-2.0
// The kernels of a step as they ran in, medians by name and of the gaps out.
#include "bench/nodes.hpp"

#include <algorithm>
#include <stdexcept>

#include "support/node_times.hpp"

namespace steady::bench {
namespace {

/// Of at least one time.
Node node_of(std::string name, std::vector<double> times_us) {
  std::sort(times_us.begin(), times_us.end());
  return {std::move(name), static_cast<int>(times_us.size()), times_us[times_us.size() / 2],
          times_us.back()};
}

}  // namespace

std::vector<Node> trace_step(const std::function<void()>& captured_step) {
  const auto runs = support::trace_kernels(captured_step);
  if (runs.empty()) throw std::runtime_error("no kernel of this backend ran on a device");
  std::vector<Node> nodes;
  for (const char* name : {"plan", "attend", "merge"}) {
    std::vector<double> lengths_us;
    for (const support::KernelRun& run : runs) {
      if (run.name.find(std::string(name) + "_kernel") != std::string::npos)
        lengths_us.push_back(run.end_us - run.begin_us);
    }
    if (!lengths_us.empty()) nodes.push_back(node_of(name, std::move(lengths_us)));
  }
  std::vector<double> gaps_us;
  for (size_t i = 1; i < runs.size(); ++i) gaps_us.push_back(runs[i].begin_us - runs[i - 1].end_us);
  if (!gaps_us.empty()) nodes.push_back(node_of("gap", std::move(gaps_us)));
  return nodes;
}

}  // namespace steady::bench
