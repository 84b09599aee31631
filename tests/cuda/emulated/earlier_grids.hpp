// SPDX-License-Identifier: Apache-2.0
// The grids in front of an emulated one, which may not have ended when it begins.
#pragma once

#include <functional>
#include <mutex>
#include <utility>

namespace steady::emulated {

/// They are over when the first of its threads has waited for them.
class EarlierGrids {
 public:
  /// What they still do.
  void leave(std::function<void()> rest) { rest_ = std::move(rest); }
  bool are_over() const { return !rest_; }
  void wait() {
    this_thread_has_waited = true;
    const std::lock_guard lock(mutex_);
    if (rest_) std::exchange(rest_, nullptr)();
  }

  static inline thread_local bool this_thread_has_waited = false;

 private:
  std::mutex mutex_;
  std::function<void()> rest_;
};
inline EarlierGrids earlier_grids;

}  // namespace steady::emulated
