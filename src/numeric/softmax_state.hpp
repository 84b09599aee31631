// SPDX-License-Identifier: Apache-2.0
// Unfinished softmax attention as a monoid: identity, an associative merge, and the final answer.
#pragma once

#include <cmath>
#include <limits>

#include "numeric/host_device.hpp"

namespace steady {

/// What some tokens of a row have added up to for one head, up to the output vector, which is kept
/// apart: out[d] = sum_j e^(s_j - max) v_j[d]. The default is the identity, no token at all.
struct SoftmaxState {
  /// The largest score, or one somewhat below it.
  float max = -std::numeric_limits<float>::infinity();
  /// sum_j e^(s_j - max)
  float sum = 0.0f;
};

/// out = left_weight * left.out + right_weight * right.out goes with the merged state.
struct Merged {
  SoftmaxState state;
  float left_weight, right_weight;
};

/// Associative in exact arithmetic only: whoever promises bits fixes the order.
STEADY_HOST_DEVICE inline Merged merge(SoftmaxState left, SoftmaxState right) {
  // A state without tokens weighs nothing; e^(-inf - -inf) would be NaN.
  if (right.sum == 0.0f) return {left, 1.0f, 0.0f};
  if (left.sum == 0.0f) return {right, 0.0f, 1.0f};
  const float max = left.max > right.max ? left.max : right.max;
  const float left_weight = std::exp(left.max - max);
  const float right_weight = std::exp(right.max - max);
  return {{max, left.sum * left_weight + right.sum * right_weight}, left_weight, right_weight};
}

struct Finished {
  float out_weight;  ///< multiplies the unfinished output
  float lse;         ///< natural logarithm of the sum, without the sink
};

/// `sink` joins the denominator and owns no value; -inf means none. Both terms of the denominator
/// are taken relative to the larger exponent, because e^(sink - max) leaves float's range before
/// the answer does.
STEADY_HOST_DEVICE inline float finished_weight(SoftmaxState state, float sink) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  if (state.sum == 0.0f || sink == kInfinity) return 0.0f;
  if (sink <= state.max) return 1.0f / (state.sum + std::exp(sink - state.max));
  const float shrink = std::exp(state.max - sink);
  return shrink / (state.sum * shrink + 1.0f);
}

/// `empty_lse` is the lse of a state without tokens.
STEADY_HOST_DEVICE inline float finished_lse(SoftmaxState state, float empty_lse) {
  return state.sum == 0.0f ? empty_lse : state.max + std::log(state.sum);
}

/// Both.
STEADY_HOST_DEVICE inline Finished finish(SoftmaxState state, float sink, float empty_lse) {
  return {finished_weight(state, sink), finished_lse(state, empty_lse)};
}

}  // namespace steady
