// SPDX-License-Identifier: Apache-2.0
// A number of rounds in, the flop of independent multiply-adds that fill the machine's pipes out.
#include <atomic>

#include "support/roof.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "support/roof_fma.cpp"
#include <hwy/foreach_target.h>  // compiles this file once for each instruction set
//
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace steady::support::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// Twelve chains hide the latency of a multiply-add on two pipes, and with two factors they fit in
/// the 16 registers of AVX2. `seed` is unknown to the compiler, and the sum of all is the result.
float fma_chains(int64_t rounds, float seed, int64_t* lanes) {
  const hn::ScalableTag<float> d;
  const auto a = hn::Set(d, seed), b = hn::Set(d, 1.0f - seed);
  auto c0 = hn::Iota(d, 0), c1 = hn::Iota(d, 1), c2 = hn::Iota(d, 2), c3 = hn::Iota(d, 3),
       c4 = hn::Iota(d, 4), c5 = hn::Iota(d, 5), c6 = hn::Iota(d, 6), c7 = hn::Iota(d, 7),
       c8 = hn::Iota(d, 8), c9 = hn::Iota(d, 9), c10 = hn::Iota(d, 10), c11 = hn::Iota(d, 11);
  for (int64_t round = 0; round < rounds; ++round) {
    c0 = hn::MulAdd(c0, a, b);
    c1 = hn::MulAdd(c1, a, b);
    c2 = hn::MulAdd(c2, a, b);
    c3 = hn::MulAdd(c3, a, b);
    c4 = hn::MulAdd(c4, a, b);
    c5 = hn::MulAdd(c5, a, b);
    c6 = hn::MulAdd(c6, a, b);
    c7 = hn::MulAdd(c7, a, b);
    c8 = hn::MulAdd(c8, a, b);
    c9 = hn::MulAdd(c9, a, b);
    c10 = hn::MulAdd(c10, a, b);
    c11 = hn::MulAdd(c11, a, b);
  }
  const auto low = hn::Add(hn::Add(hn::Add(c0, c1), hn::Add(c2, c3)), hn::Add(c4, c5));
  const auto high = hn::Add(hn::Add(hn::Add(c6, c7), hn::Add(c8, c9)), hn::Add(c10, c11));
  *lanes = static_cast<int64_t>(hn::Lanes(d));
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(low, high)));
}

}  // namespace steady::support::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace steady::support {
HWY_EXPORT(fma_chains);

double run_fma_chains(int64_t rounds) {
  constexpr double kChains = 12, kFlopEach = 2;
  static std::atomic<float> seed = 0.75f, result = 0;
  int64_t lanes = 0;
  result = HWY_DYNAMIC_DISPATCH(fma_chains)(rounds, seed, &lanes);
  return kChains * kFlopEach * static_cast<double>(rounds * lanes);
}

}  // namespace steady::support
#endif
