// SPDX-License-Identifier: Apache-2.0
// All usable cores at work at once in, the best pass of a copy and of multiply-adds out; devices
// have a file of their own.
#include "support/roof.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

#include "support/text.hpp"
#if STEADY_WITH_CUDA
#include "support/cuda/roof.hpp"
#endif

namespace steady::support {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMinCopyBytes = int64_t{64} << 20;
constexpr int64_t kMaxCopyBytes = int64_t{512} << 20;
constexpr int64_t kFmaRounds = 1 << 19;
constexpr double kSecondsEach = 0.05;

/// Runs `work` on all threads together, pass after pass, and returns the seconds of the best pass
/// after the first, which warms up.
double best_pass(int threads, const std::function<void(int thread)>& work) {
  double best = std::numeric_limits<double>::infinity();
  int passes = 0;
  bool more = true;
  Clock::time_point begin, pass_begin;
  // Runs on one thread while all others wait.
  const auto end_of_pass = [&]() noexcept {
    const auto now = Clock::now();
    if (passes++ == 0) {
      begin = now;
    } else {
      best = std::min(best, std::chrono::duration<double>(now - pass_begin).count());
      more = std::chrono::duration<double>(now - begin).count() < kSecondsEach;
    }
    pass_begin = Clock::now();
  };
  std::barrier pass(threads, end_of_pass);
  std::vector<std::jthread> pool;
  for (int thread = 0; thread < threads; ++thread) {
    pool.emplace_back([&, thread] {
      do {
        work(thread);
        pass.arrive_and_wait();
      } while (more);
    });
  }
  pool.clear();
  return best;
}

double measure_copy(int threads) {
  const int64_t cache_bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
  const int64_t each =
      std::clamp(2 * cache_bytes, kMinCopyBytes, kMaxCopyBytes) / 2 / threads / 4096 * 4096;
  std::vector<std::unique_ptr<char[]>> from(threads), to(threads);
  const double seconds = best_pass(threads, [&](int thread) {
    if (!from[thread]) {
      // The thread that uses memory touches it first, so that it lies near.
      from[thread] = std::make_unique<char[]>(each);
      to[thread] = std::make_unique<char[]>(each);
    }
    std::memcpy(to[thread].get(), from[thread].get(), each);
  });
  return 2.0 * static_cast<double>(each) * threads / seconds / 1e9;
}

double measure_fma(int threads) {
  std::vector<double> flop(threads);
  const double seconds =
      best_pass(threads, [&](int thread) { flop[thread] = run_fma_chains(kFmaRounds); });
  double all = 0;
  for (const double one : flop) all += one;
  return all / seconds / 1e9;
}

}  // namespace

double Roof::seconds(double flop, double bytes) const {
  return std::max(flop / (product_gflop_per_s * 1e9), bytes / (copy_gb_per_s * 1e9));
}

int usable_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

Roof measure_roof([[maybe_unused]] steady_backend backend) {
#if STEADY_WITH_CUDA
  if (backend == STEADY_CUDA) return measure_cuda_roof();
#endif
  const int threads = usable_cores();
  return {measure_copy(threads), measure_fma(threads), format("fp32 FMA on %d threads", threads)};
}

}  // namespace steady::support
