// SPDX-License-Identifier: Apache-2.0
// Scores of a tile in, weights 2^(score as a logarithm to base 2 - reference) out, and what a
// unit's weights add up to. Weights are relative to a reference that moves only where they become
// large: most tiles need no maximum and leave the sums as they are.
#pragma once

#include "cuda/ptx/mma.cuh"
#include "cuda/sm90/common.cuh"

namespace steady::cuda::sm90 {

/// Scores of a tile that a lane has for one head: of token 8 j + 2 (lane % 4) + e at 2 j + e.
inline constexpr int kLaneScores = kTokens / 4, kLanePairs = kLaneScores / 2;

/// Of a lane's heads, one in each half of its warp's rows; a head's scores lie in the lanes of a
/// quad.
template <int kHalves>
class HeadWeights {
 public:
  __device__ explicit HeadWeights(const LayerCall& call) : call_(call) {}

  __device__ void begin_unit() {
    // A product with a scale that is not a positive number does not keep the order of scores.
    const float to_base_2 = call_.softmax_scale * kLog2e;
    any_scaled_ = !(to_base_2 > 0.0f && to_base_2 < INFINITY);
    seen_ = false;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      scaled_[half] = any_scaled_;
      reference_[half] = kLowest;
      sum_[half] = 0.0f;
    }
  }

  /// Makes scores ready to be weighed, where most are ready as they are.
  __device__ bool any_scaled() const { return any_scaled_; }
  __device__ void scale(int half, float (&scores)[kLaneScores]) const {
    scale(scores, scaled_[half]);
  }
  /// Whether the tile had a token.
  __device__ void see(bool token) { seen_ = seen_ || token; }

  /// Weights that add up to more ask for another reference.
  __device__ static bool are_large(float sum) { return sum > kLarge; }

  /// One head's weights; returns what they add up to as they are.
  __device__ float weigh(int half, const float (&scores)[kLaneScores],
                         uint32_t (&weights)[kLanePairs]) const {
    const float factor = scaled_[half] ? 1.0f : call_.softmax_scale * kLog2e;
    const auto weight = [&](int k) {
      return ptx::exp2_approximate(__fmaf_rn(scores[k], factor, -reference_[half]));
    };
    float sum = 0.0f;
#pragma unroll
    for (int pair = 0; pair < kLanePairs; ++pair) {
      const float a = weight(2 * pair), b = weight(2 * pair + 1);
      weights[pair] = bf16x2(a, b);
      sum += a + b;
    }
    return sum;
  }

  /// The reference of a head whose weights are large becomes the tile's largest score, and its
  /// alone: its bits must not depend on the heads beside it.
  __device__ void move_reference(int half, float (&scores)[kLaneScores], float sum,
                                 float* old_weight) {
    float most = -INFINITY;
#pragma unroll
    for (const float score : scores) most = fmaxf(most, score);
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
    if (!scaled_[half]) most *= call_.softmax_scale * kLog2e;
    const uint32_t large = __ballot_sync(~0u, sum > kLarge);
    const bool moves = (large >> (lane() & ~3) & 0xf) != 0;
    const bool scales = moves && !scaled_[half] && !(fabsf(most) < kFar);
    if (moves) {
      if (reference_[half] != kLowest) {
        const float factor = ptx::exp2_approximate(reference_[half] - most);
        *old_weight *= factor;
        sum_[half] *= factor;
      }
      reference_[half] = most;
    }
    scale(scores, scales);
    scaled_[half] = scaled_[half] || scales;
    any_scaled_ = any_scaled_ || __any_sync(~0u, scales);
  }

  /// A tile's weights are those that were made last.
  __device__ void add(int half, float sum) { sum_[half] += sum; }

  /// What the unit came to: the sum of its weights as they are, NaN if nothing is known.
  __device__ float unit_sum(int half) const {
    const float sum = of_quad(sum_[half]);
    // Of tokens whose scores are all beyond what a float can tell, nothing is known.
    return sum == 0.0f && seen_ ? NAN : sum;
  }
  __device__ SoftmaxState state(int half, float unit_sum) const {
    return unit_sum == 0.0f ? SoftmaxState{} : SoftmaxState{reference_[half] * kLn2, unit_sum};
  }

 private:
  /// A thread's weights of a tile may add up to this; beyond, the reference moves.
  static constexpr float kLarge = 256.0f;
  /// Below any logarithm to base 2 of a score.
  static constexpr float kLowest = -3e38f;
  /// From here on a float's steps are too wide to leave rounding to the exponent.
  static constexpr float kFar = 16777216.0f;
  static constexpr float kLog2e = 1.44269504088896340736f, kLn2 = 0.693147180559945309417f;

  __device__ static int lane() { return ptx::thread_number() % 32; }

  /// Makes scores logarithms to base 2, in lanes that say so.
  __device__ void scale(float (&scores)[kLaneScores], bool wanted) const {
    if (!wanted) return;
    const float to_base_2 = call_.softmax_scale * kLog2e;
    const bool at_once = fabsf(to_base_2) < INFINITY;
#pragma unroll
    for (float& score : scores)
      score = at_once ? score * to_base_2 : score * call_.softmax_scale * kLog2e;
  }

  __device__ static float of_quad(float sum) {
    sum += __shfl_xor_sync(~0u, sum, 1);
    return sum + __shfl_xor_sync(~0u, sum, 2);
  }

  const LayerCall& call_;
  // Of the unit so far, for this lane's heads: the reference, what this thread's weights add up to,
  // and whether scores are scaled before they meet the reference; whether any token was named.
  float reference_[kHalves], sum_[kHalves];
  bool scaled_[kHalves], any_scaled_;  // any of the warp's
  bool seen_;
};

}  // namespace steady::cuda::sm90
