// SPDX-License-Identifier: Apache-2.0
// A plan and a layer's slots in, those outside their pools into the report.
#pragma once

#include "cuda/attend.hpp"

namespace steady::cuda {

/// For a checked engine, before attend, of the step's `rows`.
cudaError_t launch_check(const LayerCall&, int rows, cudaStream_t);

}  // namespace steady::cuda
