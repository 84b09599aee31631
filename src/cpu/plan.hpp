// SPDX-License-Identifier: Apache-2.0
// Lengths in, who does what out.
#pragma once

#include "core/shape.hpp"
#include "core/work.hpp"

namespace steady::cpu {

/// Writes the tables of one kind, all but the header's seal. `faults` is NULL in an unchecked
/// engine.
void plan(const Shape&, const PlanLimits&, const Step&, int kind, const PlanTables&,
          FaultLog* faults);

}  // namespace steady::cpu
