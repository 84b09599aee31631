// SPDX-License-Identifier: Apache-2.0
// Every allocation of the process in, their number out: of all threads and all shared libraries.
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

/// Since the process began. A sanitizer owns the allocator: there the count begins with the first
/// call of this function, and the thread sanitizer leaves aligned allocations out (not their
/// frees).
AllocationCount count_allocations();

/// What happened since its own construction.
class AllocationScope {
 public:
  AllocationCount count() const {
    const AllocationCount now = count_allocations();
    return {now.allocations - begin_.allocations, now.frees - begin_.frees};
  }

 private:
  AllocationCount begin_ = count_allocations();
};

}  // namespace steady::support
