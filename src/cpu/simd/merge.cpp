// SPDX-License-Identifier: Apache-2.0
// The fast merge: partials of one row in the order of its units in, the answer out.
#include <limits>

#include "cpu/kernels.hpp"
#include "cpu/simd/attend.hpp"
#include "numeric/bf16.hpp"
#include "numeric/softmax_state.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/simd/merge.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace steady::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
constexpr Floats kFloats;

void merge_vectors(float* out, float out_weight, const float* more, float more_weight) {
  const auto left = hn::Set(kFloats, out_weight), right = hn::Set(kFloats, more_weight);
  for (size_t d = 0; d < kHeadDim; d += hn::Lanes(kFloats)) {
    const auto sum =
        hn::MulAdd(hn::Load(kFloats, more + d), right, hn::Mul(hn::Load(kFloats, out + d), left));
    hn::Store(sum, kFloats, out + d);
  }
}

/// The rounding of bf16_from_float, on all lanes.
void finish_vector(const float* unfinished, float weight, uint16_t* out) {
  const hn::RebindToUnsigned<Floats> ints;
  const hn::Rebind<uint16_t, Floats> narrow;
  const auto factor = hn::Set(kFloats, weight);
  for (size_t d = 0; d < kHeadDim; d += hn::Lanes(kFloats)) {
    const auto value = hn::Mul(hn::Load(kFloats, unfinished + d), factor);
    const auto bits = hn::BitCast(ints, value);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(ints, 1u));
    const auto rounded = hn::Add(hn::Add(bits, hn::Set(ints, 0x7fffu)), odd);
    const auto quiet = hn::Or(bits, hn::Set(ints, 0x400000u));
    const auto nan = hn::RebindMask(ints, hn::IsNaN(value));
    const auto result = hn::ShiftRight<16>(hn::IfThenElse(nan, quiet, rounded));
    hn::StoreU(hn::TruncateTo(narrow, result), narrow, out + d);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace steady::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace steady::cpu {
namespace {

HWY_EXPORT(merge_vectors);
HWY_EXPORT(finish_vector);

void merge(const Partial& left, const Partial& right, int head) {
  const Merged merged = steady::merge(left.states[head], right.states[head]);
  left.states[head] = merged.state;
  HWY_DYNAMIC_DISPATCH(merge_vectors)
  (left.out + head * kHeadDim, merged.left_weight, right.out + head * kHeadDim,
   merged.right_weight);
}

void finish(const Shape& shape, const Layer& layer, int row, int head, const Partial& partial) {
  const float sink =
      layer.sink != nullptr ? layer.sink[head] : -std::numeric_limits<float>::infinity();
  const Finished finished = steady::finish(partial.states[head], sink, layer.empty_lse());
  HWY_DYNAMIC_DISPATCH(finish_vector)
  (partial.out + head * kHeadDim, finished.out_weight, out_vector(shape, layer, row, head));
  write_lse(shape, layer, row, head, finished.lse);
}

}  // namespace

const Kernels kSimdKernels = {simd::attend_scratch_bytes, simd::attend, merge, finish};

}  // namespace steady::cpu
#endif
