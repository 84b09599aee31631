// SPDX-License-Identifier: Apache-2.0
// Scores of a tile in, weights 2^(score as a logarithm to base 2 - reference) out, and what a
// unit's weights add up to. Weights are relative to a reference that moves only where they become
// large: most tiles need no maximum and leave the sums as they are.
#pragma once

#include "cuda/ptx/mma.cuh"
#include "cuda/sm90/common.cuh"

namespace steady::cuda::sm90 {

/// How a warp has a tile's scores of a head. Sums are taken in the same order in both ways: of four
/// tokens of sixteen first, t and t + 8, those and the next two, then of the tile's four sixteens.
///
/// Heads are the rows of products: a quad has a head's scores. Lane q has those of tokens
/// 8 j + 2 q + e, at 2 j + e.
struct InQuad {
  static constexpr int kScores = kTokens / 4;
  static constexpr int kLanes = 4;  // of a head, beside each other

  /// Rounds weights, in pairs, and returns what they add up to as they are.
  template <class Weight>
  __device__ static float add(const Weight& weight, uint32_t (&rounded)[kScores / 2]) {
    float sums[kTokens / 16];
#pragma unroll
    for (int i = 0; i < kTokens / 16; ++i) {
      const float a = weight(4 * i), b = weight(4 * i + 1), c = weight(4 * i + 2),
                  d = weight(4 * i + 3);
      rounded[2 * i] = bf16x2(a, b);
      rounded[2 * i + 1] = bf16x2(c, d);
      sums[i] = (a + c) + (b + d);
    }
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
  /// Of what the lanes of a head have added up.
  __device__ static float total(float sum) {
    sum += __shfl_xor_sync(~0u, sum, 1);
    return sum + __shfl_xor_sync(~0u, sum, 2);
  }
  /// Of the lanes of a head, none of which has NaN.
  __device__ static float largest(float score) {
    score = fmaxf(score, __shfl_xor_sync(~0u, score, 1));
    return fmaxf(score, __shfl_xor_sync(~0u, score, 2));
  }
};

/// Tokens are the rows of products: all lanes have a head's scores. Lane 8 w + r has those of
/// tokens 16 w + r and eight further on.
struct InWarp {
  static constexpr int kScores = kTokens / 32;
  static constexpr int kLanes = 32;
  static constexpr int kAddingLanes = 8;  // have the weights of sixteen tokens

  /// The same of this lane's two tokens; add_lanes() adds what seven others have of their sixteen.
  template <class Weight>
  __device__ static float add(const Weight& weight, uint32_t (&rounded)[kScores / 2]) {
    const float a = weight(0), b = weight(1);
    rounded[0] = bf16x2(a, b);
    return a + b;
  }
  __device__ static float add_lanes(float sum) {
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 8);
    return sum + __shfl_xor_sync(~0u, sum, 16);
  }
  __device__ static float total(float sum) {
    sum += __shfl_xor_sync(~0u, sum, 2);
    return sum + __shfl_xor_sync(~0u, sum, 4);
  }
  /// In one instruction instead of five, each of which waits for the one before: integers in the
  /// order of floats.
  __device__ static float largest(float score) {
    const auto flip = [](int32_t bits) { return bits ^ (bits >> 31 & 0x7fffffff); };
    return __int_as_float(flip(__reduce_max_sync(~0u, flip(__float_as_int(score)))));
  }
};

/// What becomes of a head's sums at the end of a unit: brought to the exact sum of the weights,
/// joined to the row so far by the two weights if the unit joins, multiplied by `finish`.
struct HeadEnd {
  float sum, left_weight, right_weight, finish;
};

/// Ends a unit that came to `state`: the row so far takes it in, and `tell(end)` has what becomes
/// of its sums. Then, because weighers wait for that, the caller has the lse, or merge the state of
/// a split row's unit, if `writes`. For a head that there is, whose sink `sink()` is.
template <class Sink, class Tell>
__device__ void end_head(const Call& call, const UnitPlace& place, int row, int head, float sum,
                         SoftmaxState state, const Sink& sink, SoftmaxState* row_so_far,
                         bool writes, const Tell& tell) {
  HeadEnd end = {sum, 0.0f, 1.0f, 1.0f};
  if (place.joins) [[unlikely]] {
    const Merged merged = merge(*row_so_far, state);
    state = merged.state;
    end.left_weight = merged.left_weight;
    end.right_weight = merged.right_weight;
  }
  *row_so_far = state;
  if (place.finishes) [[likely]]
    end.finish = finished_weight(state, sink());
  tell(end);
  if (!writes) return;
  if (place.finishes) [[likely]] {
    write_lse(call, finished_lse(state, call.layer.empty_lse()), row, head);
  } else if (place.split) {
    partial_states(call, place.slot)[head] = state;
  }
}

/// The products were made with rounded weights, which add up to `rounded`, the state with exact
/// ones; bringing them to the exact sum leaves only what rounding changed between the tokens.
__device__ inline float to_exact_sum(float sum, float rounded) {
  return sum == 0.0f ? 1.0f : sum / rounded;
}

/// Of a lane's heads.
template <int kHalves, class In>
class HeadWeights {
 public:
  static constexpr int kScores = In::kScores;
  /// Of the unit so far, for this lane's heads: the reference, and whether scores are scaled before
  /// they meet it.
  struct References {
    float at[kHalves];
    bool scaled[kHalves], any_scaled;  // any of the warp's
  };
  /// What sixteens of weights add up to; whether any token was named.
  struct Sums {
    float at[kHalves];
    bool seen;
  };
  __device__ explicit HeadWeights(const Call& call) : call_(call) {}

  /// Another warp goes on with the unit.
  __device__ const References& references() const { return references_; }
  __device__ const Sums& sums() const { return sums_; }
  __device__ void go_on_from(const References& references) { references_ = references; }
  __device__ void go_on_from(const Sums& sums) { sums_ = sums; }
  /// Where another warp's sums came when a reference had moved.
  __device__ void rescale(int half, float old_weight) { sums_.at[half] *= old_weight; }

  __device__ void begin_unit() {
    // A product with a scale that is not a positive number does not keep the order of scores.
    const float to_base_2 = call_.softmax_scale * kLog2e;
    references_.any_scaled = !(to_base_2 > 0.0f && to_base_2 < INFINITY);
    sums_.seen = false;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      references_.scaled[half] = references_.any_scaled;
      references_.at[half] = kLowest;
      sums_.at[half] = 0.0f;
    }
  }

  /// Makes scores ready to be weighed, where most are ready as they are.
  __device__ bool any_scaled() const { return references_.any_scaled; }
  __device__ void scale(int half, float (&scores)[kScores]) const {
    scale(scores, references_.scaled[half]);
  }
  /// Whether the tile had a token.
  __device__ void see(bool token) { sums_.seen = sums_.seen || token; }

  /// Weights that add up to more ask for another reference.
  __device__ static bool are_large(float sum) { return sum > kLarge; }

  /// Whether they might be, all lanes' together, by what this one's are.
  __device__ static bool may_be_large(float sum) { return sum > kLarge / In::kAddingLanes; }

  /// Whether this score's weight alone would ask for another reference.
  __device__ bool is_large(int half, float score) const { return weight(half, score) > kLarge; }

  /// One head's weights, rounded, in pairs; returns what In::add() does. are_large(), add() and
  /// move_reference() want the sum of sixteen tokens.
  __device__ float weigh(int half, const float (&scores)[kScores],
                         uint32_t (&rounded)[kScores / 2]) const {
    return In::add([&](int k) { return weight(half, scores[k]); }, rounded);
  }

  /// The reference of a head whose weights are large becomes the tile's largest score, and its
  /// alone: its bits must not depend on the heads beside it.
  __device__ void move_reference(int half, float (&scores)[kScores], float sum, float* old_weight) {
    float most = -INFINITY;
#pragma unroll
    for (const float score : scores) most = fmaxf(most, score);
    most = In::largest(most);
    if (!references_.scaled[half]) most *= call_.softmax_scale * kLog2e;
    const uint32_t large = __ballot_sync(~0u, sum > kLarge);
    constexpr uint32_t kHead = In::kLanes == 32 ? ~0u : (1u << In::kLanes) - 1;
    const bool moves = (large >> (lane() & ~(In::kLanes - 1)) & kHead) != 0;
    const bool scales = moves && !references_.scaled[half] && !(fabsf(most) < kFar);
    if (moves) {
      if (references_.at[half] != kLowest) {
        const float factor = ptx::exp2_approximate(references_.at[half] - most);
        *old_weight *= factor;
        sums_.at[half] *= factor;
      }
      references_.at[half] = most;
    }
    scale(scores, scales);
    references_.scaled[half] = references_.scaled[half] || scales;
    references_.any_scaled = references_.any_scaled || __any_sync(~0u, scales);
  }

  /// A tile's weights are those that were made last.
  __device__ void add(int half, float sum) { sums_.at[half] += sum; }

  /// What the unit came to: the sum of its weights as they are, NaN if nothing is known.
  __device__ float unit_sum(int half) const {
    const float sum = In::total(sums_.at[half]);
    // Of tokens whose scores are all beyond what a float can tell, nothing is known.
    return sum == 0.0f && sums_.seen ? NAN : sum;
  }
  __device__ SoftmaxState state(int half, float unit_sum) const {
    return unit_sum == 0.0f ? SoftmaxState{} : SoftmaxState{references_.at[half] * kLn2, unit_sum};
  }

 private:
  /// Sixteen weights of a tile, those that a lane of a quad has, may add up to this; beyond, the
  /// reference moves.
  static constexpr float kLarge = 256.0f;
  /// Below any logarithm to base 2 of a score.
  static constexpr float kLowest = -3e38f;
  /// From here on a float's steps are too wide to leave rounding to the exponent.
  static constexpr float kFar = 16777216.0f;
  static constexpr float kLog2e = 1.44269504088896340736f, kLn2 = 0.693147180559945309417f;

  __device__ static int lane() { return ptx::thread_number() % 32; }

  __device__ float weight(int half, float score) const {
    const float factor = references_.scaled[half] ? 1.0f : call_.softmax_scale * kLog2e;
    return ptx::exp2_approximate(__fmaf_rn(score, factor, -references_.at[half]));
  }

  /// Makes scores logarithms to base 2, in lanes that say so.
  __device__ void scale(float (&scores)[kScores], bool wanted) const {
    if (!wanted) return;
    const float to_base_2 = call_.softmax_scale * kLog2e;
    const bool at_once = fabsf(to_base_2) < INFINITY;
#pragma unroll
    for (float& score : scores)
      score = at_once ? score * to_base_2 : score * call_.softmax_scale * kLog2e;
  }

  const Call& call_;
  References references_;
  Sums sums_;
};

}  // namespace steady::cuda::sm90
