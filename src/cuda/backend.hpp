// SPDX-License-Identifier: Apache-2.0
// The registry's row for NVIDIA GPUs.
#pragma once

#include "core/backend.hpp"

namespace steady::cuda {

extern const Backend kBackend;

}  // namespace steady::cuda
