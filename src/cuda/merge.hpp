// SPDX-License-Identifier: Apache-2.0
// Partials of split rows in, their answers out.
#pragma once

#include "cuda/attend.hpp"

namespace steady::cuda {

cudaError_t launch_merge(const LayerCall&, cudaStream_t);

}  // namespace steady::cuda
