// SPDX-License-Identifier: Apache-2.0
// Work on a device in, when each of its kernels began and ended out.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace steady::support {

struct KernelRun {
  std::string name;  ///< as the linker knows it
  double begin_us, end_us;
};

/// Runs `work`, which must wait for what it launches, and returns the kernels that ran on CUDA
/// devices, in the order in which they began. A graph shows its kernels one by one only if `work`
/// captures it too. Throws std::runtime_error, saying why, where nothing can be traced.
std::vector<KernelRun> trace_kernels(const std::function<void()>& work);

}  // namespace steady::support
