// SPDX-License-Identifier: Apache-2.0
// A plan's tables where host and device have them.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/memory.hpp"
#include "tests/cuda/device.hpp"

namespace steady::test {

/// A plan's tables in memory that both sides touch, full of garbage at first.
struct CommonTables {
  CommonTables(const Shape& shape, const PlanLimits& limits)
      : header(1),
        parts(limits.parts),
        rows(shape.max_rows()),
        split_rows(limits.parts),
        row_begins(shape.max_rows()),
        layer(1) {
    std::memset(static_cast<void*>(rows.get()), 0xA5, rows.size() * sizeof(RowPlan));
    std::memset(static_cast<void*>(parts.get()), 0xA5, parts.size() * sizeof(PartRange));
  }
  PlanTables plan() const { return {header.get(), parts.get(), rows.get(), split_rows.get()}; }
  cuda::Tables tables() const {
    return {plan(), row_begins.get(), nullptr, nullptr, nullptr, nullptr, layer.get()};
  }

  Common<PlanHeader> header;
  Common<PartRange> parts;
  Common<RowPlan> rows;
  Common<int32_t> split_rows;
  Common<int64_t> row_begins;
  Common<int32_t> layer;
};

}  // namespace steady::test
