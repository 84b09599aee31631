// SPDX-License-Identifier: Apache-2.0
// Nothing in, the loops for this machine's instruction set out. Highway compiles them once for each
// and picks one at run time; vectorising them is left to the compiler.
#include <algorithm>
#include <bit>
#include <cmath>

#include "bench/loops.hpp"
#include "steady/cache_format.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/tuned_loops.cpp"
#include <hwy/foreach_target.h>  // compiles this file once for each instruction set
//
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace steady::bench::HWY_NAMESPACE {
#include "bench/loops-inl.hpp"

Loops loops() { return {dequantise, widen_bf16, narrow_to_bf16, soften}; }

}  // namespace steady::bench::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace steady::bench {
HWY_EXPORT(loops);

Loops tuned_loops() { return HWY_DYNAMIC_DISPATCH(loops)(); }

}  // namespace steady::bench
#endif
