// SPDX-License-Identifier: Apache-2.0
// Independent tasks in, all of them run, by this thread and the pool's.
#pragma once

#include <pthreadpool.h>

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <new>

#include "cpu/float_environment.hpp"

namespace steady::cpu {

/// Cores that this process may use.
int usable_cores();

/// Whether the system lets this process have so many threads at once; pthreadpool would wait for
/// ever for those that it does not get.
bool can_have_threads(int threads);

/// Running tasks neither allocates nor creates threads. Callers on several threads take turns.
class ThreadPool {
 public:
  explicit ThreadPool(int threads) {
    if (threads < 2) return;
    pool_.reset(pthreadpool_create(static_cast<size_t>(threads)));
    if (pool_ == nullptr) throw std::bad_alloc();
  }

  /// Calls task(0) … task(count - 1), in any order and at the same time, and returns after the
  /// last.
  template <class Task>
  void run(size_t count, const Task& task) {
    if (pool_ == nullptr || count < 2) {
      const DefaultFloatEnvironment environment;
      for (size_t i = 0; i < count; ++i) task(i);
      return;
    }
    const std::lock_guard turn(turn_);
    // The pool orders its threads by futexes inside a library that thread sanitizers cannot see
    // into; these two atomics order the tasks' memory in plain sight. They cost nothing measurable.
    task_.store(&task, std::memory_order_release);
    pthreadpool_parallelize_1d(pool_.get(), &ThreadPool::invoke<Task>, this, count,
                               PTHREADPOOL_FLAG_YIELD_WORKERS);
    finished_.load(std::memory_order_acquire);
  }

 private:
  template <class Task>
  static void invoke(void* context, size_t index) {
    auto& pool = *static_cast<ThreadPool*>(context);
    const DefaultFloatEnvironment environment;
    (*static_cast<const Task*>(pool.task_.load(std::memory_order_acquire)))(index);
    pool.finished_.fetch_add(1, std::memory_order_release);
  }

  struct Destroy {
    void operator()(pthreadpool* pool) const { pthreadpool_destroy(pool); }
  };

  std::unique_ptr<pthreadpool, Destroy> pool_;
  std::mutex turn_;
  std::atomic<const void*> task_{nullptr};
  std::atomic<unsigned> finished_{0};
};

}  // namespace steady::cpu
