// SPDX-License-Identifier: Apache-2.0
// Nothing in, the loops as they come out of the compiler by default out.
#include <algorithm>
#include <bit>
#include <cmath>

#include "bench/loops.hpp"
#include "steady/cache_format.h"

namespace steady::bench {
namespace {
#include "bench/loops-inl.hpp"
}  // namespace

Loops plain_loops() { return {dequantise, widen_bf16, narrow_to_bf16, soften}; }

}  // namespace steady::bench
