// SPDX-License-Identifier: Apache-2.0
// Element counts in, offsets into one block of memory out.
#pragma once

#include <cstddef>

namespace steady {

inline constexpr size_t kWorkspaceAlignment = 256;

/// Lays arrays one after the other, each aligned for any type and any worker's cache line.
class WorkspaceLayout {
 public:
  /// The offset in bytes of an array of `count` elements of `T`.
  template <class T>
  size_t add(size_t count) {
    const size_t offset = bytes_;
    const size_t end = offset + count * sizeof(T);
    bytes_ = (end + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
    return offset;
  }

  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_ = 0;
};

}  // namespace steady
