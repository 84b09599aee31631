// SPDX-License-Identifier: Apache-2.0
// CUDA device 0 in, what it copies and multiplies at most out.
#pragma once

#include "support/roof.hpp"

namespace steady::support {

/// A copy within device memory; bf16 products by cuBLAS if that can be loaded. Throws
/// std::runtime_error where the device fails.
Roof measure_cuda_roof();

}  // namespace steady::support
