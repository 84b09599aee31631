// SPDX-License-Identifier: Apache-2.0
// A workspace's bytes in, the tables, partials and scratch that lie in it out. Sizes depend on the
// shape and the number of threads alone.
#pragma once

#include <cstddef>

#include "core/shape.hpp"
#include "core/work.hpp"
#include "core/workspace.hpp"

namespace steady::cpu {

/// What one worker has to itself.
struct PartMemory {
  Partial row, unit;  ///< of a row that no other part shares, and of the unit to merge into it
  std::byte* scratch;
  FaultLog* faults;
};

class MemoryMap {
 public:
  MemoryMap(const Shape&, const PlanLimits&, size_t scratch_bytes);

  size_t bytes() const { return bytes_; }
  PlanTables plan(void* workspace, int kind) const;
  PartMemory part(void* workspace, int part) const;
  Partial slot(void* workspace, int slot) const;

  /// [1 + parts]: the plan's and each part's.
  FaultLog* faults(void* workspace) const { return at<FaultLog>(workspace, faults_); }

 private:
  template <class T>
  static T* at(void* workspace, size_t offset) {
    return reinterpret_cast<T*>(static_cast<std::byte*>(workspace) + offset);
  }

  /// An array of `count` items of `stride` bytes each, whose fields lie at offsets inside the item.
  struct Array {
    size_t begin = 0, stride = 0;
  };

  Partial partial(void* workspace, size_t begin) const;

  size_t bytes_;
  size_t faults_;
  Array plans_, parts_, slots_;
  size_t plan_parts_, plan_rows_, plan_split_rows_;  // within a plan
  size_t partial_out_;                               // within a partial
  size_t part_unit_, part_scratch_;                  // within a part
};

}  // namespace steady::cpu
