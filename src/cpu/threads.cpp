// SPDX-License-Identifier: Apache-2.0
// What the system lets this process have: cores and threads.
#include "cpu/threads.hpp"

#include <sched.h>

#include <algorithm>
#include <latch>
#include <system_error>
#include <thread>
#include <vector>

namespace steady::cpu {

int usable_cores() {
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) return std::max(1, CPU_COUNT(&cores));
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

bool can_have_threads(int threads) {
  std::latch all_tried(1);
  std::vector<std::jthread> trial;  // joined when all have been told to end
  bool enough = true;
  try {
    for (int i = 1; i < threads; ++i) trial.emplace_back([&] { all_tried.wait(); });
  } catch (const std::system_error&) {
    enough = false;
  }
  all_tried.count_down();
  return enough;
}

}  // namespace steady::cpu
