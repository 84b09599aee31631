// SPDX-License-Identifier: Apache-2.0
// A workspace's bytes in, the tables and partials that lie in it out. Sizes depend on the shape and
// the card alone.
#pragma once

#include <cstddef>

#include "core/shape.hpp"
#include "core/work.hpp"
#include "core/workspace.hpp"

namespace steady::cuda {

/// Like FaultSeen, written by many threads: `lock` guards the rest.
struct SharedFault {
  int32_t lock;
  FaultSeen seen;
};

struct SharedFaultLog {
  SharedFault negative_length, long_length, stray_slot;
};

/// Pointers into one kind's share of a workspace. Passed to kernels by value.
struct Tables {
  PlanTables plan;
  int64_t* row_begins;   ///< [max_rows], plan's own: the cost of all rows before a row
  SoftmaxState* states;  ///< [partials, heads]
  float* outs;           ///< [partials, heads, 512]
  float* kept;  ///< of each block of Hopper's kernels: a whole row's sums between its units, at the
                ///< end of `outs`, where no slot is unless all rows of several units are split
  SharedFaultLog* faults;  ///< NULL in an unchecked engine
  int32_t* layer;          ///< decode calls since the plan
};

/// Room for sums of units, beside the answers: the slots and behind them what parts keep of whole
/// rows, or as many slots as there are in all.
struct PartialRoom {
  int partials;  ///< of all heads of a row each
  size_t kept;   ///< floats that Hopper's kernels keep, the last of these partials'
};

class MemoryMap {
 public:
  MemoryMap() = default;
  MemoryMap(const Shape& shape, const PlanLimits& limits, const PartialRoom& room) {
    WorkspaceLayout plan;
    plan.add<PlanHeader>(1);
    parts_ = plan.add<PartRange>(limits.parts);
    rows_ = plan.add<RowPlan>(shape.max_rows());
    split_rows_ = plan.add<int32_t>(limits.parts);
    row_begins_ = plan.add<int64_t>(shape.max_rows());
    plan_bytes_ = plan.bytes();

    const size_t partials = room.partials;
    WorkspaceLayout all;
    faults_ = all.add<SharedFaultLog>(1);
    layer_ = all.add<int32_t>(1);
    plans_ = all.add<std::byte>(plan_bytes_ * shape.kinds);
    states_ = all.add<SoftmaxState>(partials * shape.heads);
    outs_ = all.add<float>(partials * shape.heads * kHeadDim);
    kept_ = outs_ + (partials * shape.heads * kHeadDim - room.kept) * sizeof(float);
    bytes_ = all.bytes();
  }

  size_t bytes() const { return bytes_; }

  Tables tables(void* workspace, int kind, bool checked) const {
    std::byte* plan = static_cast<std::byte*>(workspace) + plans_ + plan_bytes_ * kind;
    std::byte* all = static_cast<std::byte*>(workspace);
    return {{at<PlanHeader>(plan, 0), at<PartRange>(plan, parts_), at<RowPlan>(plan, rows_),
             at<int32_t>(plan, split_rows_)},
            at<int64_t>(plan, row_begins_),
            at<SoftmaxState>(all, states_),
            at<float>(all, outs_),
            at<float>(all, kept_),
            checked ? at<SharedFaultLog>(all, faults_) : nullptr,
            at<int32_t>(all, layer_)};
  }

 private:
  template <class T>
  static T* at(std::byte* base, size_t offset) {
    return reinterpret_cast<T*>(base + offset);
  }

  size_t parts_ = 0, rows_ = 0, split_rows_ = 0, row_begins_ = 0, plan_bytes_ = 0;
  size_t faults_ = 0, layer_ = 0, plans_ = 0, states_ = 0, outs_ = 0, kept_ = 0, bytes_ = 0;
};

}  // namespace steady::cuda
