// SPDX-License-Identifier: Apache-2.0
// The registry's rows for the CPU.
#pragma once

#include "core/backend.hpp"

namespace steady::cpu {

extern const Backend kBackend;        // SIMD, several threads
extern const Backend kOracleBackend;  // scalar, sums in double

}  // namespace steady::cpu
