// SPDX-License-Identifier: Apache-2.0
// Lengths on the device in, who does what out, on the device.
#pragma once

#include <cuda_runtime.h>

#include "core/shape.hpp"
#include "cuda/memory.hpp"

namespace steady::cuda {

/// What the kernel is told, by value.
struct PlanCall {
  Shape shape;
  Step step;
  PlanLimits limits[STEADY_MAX_KINDS];  ///< of which parts and units are the same
  uint64_t seal;
  Tables tables[STEADY_MAX_KINDS];
};

/// Plans all kinds in one launch.
cudaError_t launch_plan(const PlanCall&, cudaStream_t);

}  // namespace steady::cuda
