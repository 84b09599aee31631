// SPDX-License-Identifier: Apache-2.0
// A size goes in; address space of that size comes out, between two pages that nobody may touch. It
// costs no memory until it is written.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>

namespace steady::test {

class MappedMemory {
 public:
  explicit MappedMemory(size_t bytes)
      : os_page_bytes_(static_cast<size_t>(sysconf(_SC_PAGESIZE))),
        bytes_((bytes + os_page_bytes_ - 1) / os_page_bytes_ * os_page_bytes_) {
    void* mapped = mmap(nullptr, bytes_ + 2 * os_page_bytes_, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) throw std::runtime_error("no address space for the test");
    begin_ = static_cast<uint8_t*>(mapped) + os_page_bytes_;
    forbid(-static_cast<int64_t>(os_page_bytes_), os_page_bytes_);
    forbid(static_cast<int64_t>(bytes_), os_page_bytes_);
  }
  ~MappedMemory() { munmap(begin_ - os_page_bytes_, bytes_ + 2 * os_page_bytes_); }
  MappedMemory(const MappedMemory&) = delete;
  MappedMemory& operator=(const MappedMemory&) = delete;

  // The first byte; the byte before it faults.
  uint8_t* begin() const { return begin_; }
  // The byte here faults.
  uint8_t* end() const { return begin_ + bytes_; }
  size_t os_page_bytes() const { return os_page_bytes_; }

  // From now on these bytes, whole pages of the system, fault.
  void forbid(int64_t offset, size_t bytes) {
    if (mprotect(begin_ + offset, bytes, PROT_NONE) != 0)
      throw std::runtime_error("the system refuses a guard page");
  }

 private:
  size_t os_page_bytes_;
  size_t bytes_;
  uint8_t* begin_;
};

}  // namespace steady::test
