// SPDX-License-Identifier: Apache-2.0
// A size goes in; address space of at least that size comes out, between two places that nobody may
// touch. It costs no memory until it is written, unless devices are to touch it too.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <utility>

#include "tests/support/memory.hpp"

namespace steady::test {

// A multiple of any system's page size.
constexpr int64_t kGuardBytes = 65536;

class MappedMemory {
 public:
  explicit MappedMemory(size_t bytes, bool for_devices = false)
      : bytes_((bytes + kGuardBytes - 1) / kGuardBytes * kGuardBytes), for_devices_(for_devices) {
    void* mapped = mmap(nullptr, bytes_ + 2 * kGuardBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) throw std::runtime_error("no address space for the test");
    begin_ = static_cast<uint8_t*>(mapped) + kGuardBytes;
    forbid(-kGuardBytes, kGuardBytes);
    forbid(static_cast<int64_t>(bytes_), kGuardBytes);
    if (for_devices_) share_with_devices(begin_, bytes_);
  }
  MappedMemory(MappedMemory&& other) noexcept
      : bytes_(other.bytes_),
        for_devices_(other.for_devices_),
        begin_(std::exchange(other.begin_, nullptr)) {}
  ~MappedMemory() {
    if (begin_ == nullptr) return;
    if (for_devices_) withdraw_from_devices(begin_);
    munmap(begin_ - kGuardBytes, bytes_ + 2 * kGuardBytes);
  }

  // The first byte; the one before it faults.
  uint8_t* begin() const { return begin_; }
  // The byte here faults.
  uint8_t* end() const { return begin_ + bytes_; }

  // From now on these bytes fault. Both numbers are multiples of kGuardBytes.
  void forbid(int64_t offset, int64_t bytes) {
    if (mprotect(begin_ + offset, static_cast<size_t>(bytes), PROT_NONE) != 0)
      throw std::runtime_error("the system refuses a guard page");
  }

 private:
  size_t bytes_;
  bool for_devices_;
  uint8_t* begin_;
};

}  // namespace steady::test
