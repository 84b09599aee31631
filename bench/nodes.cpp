// SPDX-License-Identifier: Apache-2.0
// The kernels of a step as they ran in, medians by name and of the gaps out.
#include "bench/nodes.hpp"

#include <algorithm>
#include <stdexcept>

#include "support/node_times.hpp"

namespace steady::bench {
namespace {

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
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
    const auto count = static_cast<int>(lengths_us.size());
    if (count > 0) nodes.push_back({name, count, median(std::move(lengths_us))});
  }
  std::vector<double> gaps_us;
  for (size_t i = 1; i < runs.size(); ++i) gaps_us.push_back(runs[i].begin_us - runs[i - 1].end_us);
  const auto count = static_cast<int>(gaps_us.size());
  if (count > 0) nodes.push_back({"gap", count, median(std::move(gaps_us))});
  return nodes;
}

}  // namespace steady::bench
