// SPDX-License-Identifier: Apache-2.0
// Every allocation of the process in, their number out: of all shared libraries, and of all threads
// or of the caller's.
//
// A program that links `steady_alloc_counter` and calls count_allocations() takes the malloc family
// over. operator new and delete come through it and count once.
#pragma once

#include <cstdint>

namespace steady::support {

struct AllocationCount {
  int64_t allocations = 0;
  int64_t frees = 0;  ///< of more than a null pointer
};

/// A driver's own threads allocate when they please. Where Steady has no threads, as on a device,
/// its allocations and those that a driver makes for it are the caller's.
enum class CountedThreads { kAll, kCaller };

/// Since the process or the thread began. A sanitizer owns the allocator: there the count begins
/// with the first call of this function, and the thread sanitizer leaves aligned allocations out
/// (not their frees).
AllocationCount count_allocations(CountedThreads threads = CountedThreads::kAll);

/// What happened since its own construction.
class AllocationScope {
 public:
  explicit AllocationScope(CountedThreads threads = CountedThreads::kAll) : threads_(threads) {}

  AllocationCount count() const {
    const AllocationCount now = count_allocations(threads_);
    return {now.allocations - begin_.allocations, now.frees - begin_.frees};
  }

 private:
  CountedThreads threads_;
  AllocationCount begin_ = count_allocations(threads_);
};

}  // namespace steady::support
