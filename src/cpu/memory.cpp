// SPDX-License-Identifier: Apache-2.0
// A workspace's bytes in, the tables, partials and scratch that lie in it out.
#include "cpu/memory.hpp"

namespace steady::cpu {

MemoryMap::MemoryMap(const Shape& shape, const PlanLimits& limits, size_t scratch_bytes) {
  WorkspaceLayout plan;
  plan.add<PlanHeader>(1);
  plan_parts_ = plan.add<PartRange>(limits.parts);
  plan_rows_ = plan.add<RowPlan>(shape.max_rows());
  plan_split_rows_ = plan.add<int32_t>(limits.parts);

  WorkspaceLayout partial;
  partial.add<SoftmaxState>(shape.heads);
  partial_out_ = partial.add<float>(static_cast<size_t>(shape.heads) * kHeadDim);

  WorkspaceLayout part;
  part.add<std::byte>(partial.bytes());
  part_unit_ = part.add<std::byte>(partial.bytes());
  part_scratch_ = part.add<std::byte>(scratch_bytes);

  WorkspaceLayout all;
  faults_ = all.add<FaultLog>(1 + limits.parts);
  plans_ = {all.add<std::byte>(plan.bytes() * shape.kinds), plan.bytes()};
  parts_ = {all.add<std::byte>(part.bytes() * limits.parts), part.bytes()};
  slots_ = {all.add<std::byte>(partial.bytes() * limits.slots), partial.bytes()};
  bytes_ = all.bytes();
}

PlanTables MemoryMap::plan(void* workspace, int kind) const {
  const size_t begin = plans_.begin + plans_.stride * kind;
  return {at<PlanHeader>(workspace, begin), at<PartRange>(workspace, begin + plan_parts_),
          at<RowPlan>(workspace, begin + plan_rows_),
          at<int32_t>(workspace, begin + plan_split_rows_)};
}

Partial MemoryMap::partial(void* workspace, size_t begin) const {
  return {at<SoftmaxState>(workspace, begin), at<float>(workspace, begin + partial_out_)};
}

PartMemory MemoryMap::part(void* workspace, int part) const {
  const size_t begin = parts_.begin + parts_.stride * part;
  return {partial(workspace, begin), partial(workspace, begin + part_unit_),
          at<std::byte>(workspace, begin + part_scratch_), faults(workspace) + 1 + part};
}

Partial MemoryMap::slot(void* workspace, int slot) const {
  return partial(workspace, slots_.begin + slots_.stride * slot);
}

}  // namespace steady::cpu
