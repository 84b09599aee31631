// SPDX-License-Identifier: Apache-2.0
// A step on a device in, how long its kernels and the gaps between them take out.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace steady::bench {

/// One sort of node of a graph, or the gaps.
struct Node {
  std::string name;  ///< "attend", "gap"
  int count;         ///< in a step
  double median_us, largest_us;
};

/// `captured_step` captures a step, replays it once and waits for it. Throws std::runtime_error
/// where kernels cannot be traced.
std::vector<Node> trace_step(const std::function<void()>& captured_step);

}  // namespace steady::bench
