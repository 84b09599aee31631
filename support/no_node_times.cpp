// SPDX-License-Identifier: Apache-2.0
// Nothing in, no kernel times out: for a build without devices.
#include <stdexcept>

#include "support/node_times.hpp"

namespace steady::support {

std::vector<KernelRun> trace_kernels(const std::function<void()>&) {
  throw std::runtime_error("kernels cannot be traced: this build has no backend with kernels");
}

}  // namespace steady::support
