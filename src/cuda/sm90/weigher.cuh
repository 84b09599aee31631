// SPDX-License-Identifier: Apache-2.0
// Tiles of tokens and all blocks' shares of their scores in, this block's share of the answers of
// whole rows and of the partials of split rows out: the work of one warpgroup.
//
// Every block turns all scores into weights, in the same order, and so to the same bits. Weights
// are relative to a reference that moves only where they become large: most tiles need no maximum
// and leave the sums as they are. Weights go to the products in the registers where they are made.
#pragma once

#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/mma.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/shared.cuh"

namespace steady::cuda::sm90 {

template <class S>
class Weigher {
 public:
  __device__ Weigher(const LayerCall& call, const PartRange& range, Shared<S>& shared)
      : call_(call), shared_(shared), heads_(heads_here(call)), tile_(call, range) {}

  /// All tiles of this part.
  __device__ void part() {
    begin_unit();
    for (; tile_.valid(); tile_.advance()) {
      tokens_.wait_full(shared_.tokens_full);
      uint32_t weights[kHalves][kLanePairs];
      float old_weight[kHalves];
      make_weights(weights, old_weight);
      const bool first = tile_.first_of_unit();
      if (!first) rescale_if_moved(old_weight);
      weigh(weights, first);
      hand_over(&shared_.tokens_empty[tokens_.index]);
      tokens_.advance();
      if (tile_.last_of_unit()) [[unlikely]]
        end_unit();
    }
  }

 private:
  static constexpr int kHalves = S::kHalves;
  static constexpr int kLanePairs = kLaneScores / 2;  // of weights, for one head
  static constexpr int kSteps = kTokens / 16;         // of a product over all tokens
  static constexpr int kPairs = S::kOwnDims / 8;      // of values, in each of a lane's rows
  /// Of one product; more columns would take more registers than the kernel begins with.
  static constexpr int kPartDims = 128, kParts = S::kOwnDims / kPartDims;

  /// A thread's weights of a tile may add up to this; beyond, the reference moves.
  static constexpr float kLarge = 256.0f;
  /// Below any logarithm to base 2 of a score.
  static constexpr float kLowest = -3e38f;
  /// From here on a float's steps are too wide to leave rounding to the exponent.
  static constexpr float kFar = 16777216.0f;
  static constexpr float kLog2e = 1.44269504088896340736f, kLn2 = 0.693147180559945309417f;

  __device__ static int thread() { return static_cast<int>(threadIdx.x) % kGroupThreads; }
  __device__ static int warp() { return thread() / 32; }
  __device__ static int lane() { return thread() % 32; }
  __device__ static int head(int half) { return S::first_head(warp(), half) + lane() / 4; }
  /// Of this block's share; asked for where it is needed, because there is no register to keep it.
  __device__ static int first_dim() { return ptx::cluster_rank() * S::kOwnDims; }

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

  /// The next tile's weights 2^(score as a logarithm to base 2 - reference), rounded, in pairs, and
  /// what the sums so far are worth after references moved.
  __device__ void make_weights(uint32_t (&weights)[kHalves][kLanePairs],
                               float (&old_weight)[kHalves]) {
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      old_weight[half] = 1.0f;
      for (uint32_t& pair : weights[half]) pair = 0;
    }
    if (S::first_head(warp(), 0) >= heads_) return;
    wait_for_scores();
    const uint64_t named = read_named();
    seen_ = seen_ || named != 0;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      float scores[kLaneScores];
      read(half, scores);
      if (half == kHalves - 1)
        hand_over_to_cluster<S>(&shared_.scores_empty[warp()][scores_.index]);
      if (any_scaled_) [[unlikely]]
        scale(scores, scaled_[half]);
      if (named != ~uint64_t{0}) [[unlikely]]
        hide_unnamed(named, scores);
      float sum;
      for (;;) {
        sum = make_weights(half, scores, weights[half]);
        if (!__any_sync(~0u, sum > kLarge)) [[likely]]
          break;
        move_reference(half, scores, sum, &old_weight[half]);
      }
      sum_[half] += sum;
    }
    scores_.advance();
  }

  /// Which of the tile's tokens a slot names, read by the lane that will hand the buffer over.
  __device__ uint64_t read_named() const {
    unsigned long long named = 0;
    if (lane() == 0) named = shared_.named[tokens_.index];
    return __shfl_sync(~0u, named, 0);
  }

  __device__ void wait_for_scores() {
    uint64_t* full = &shared_.scores_full[warp()][scores_.index];
    if (lane() == 0)
      ptx::arrive_and_expect(full, S::kCluster * 32 * kHalves * kLaneScores * sizeof(float));
    __syncwarp();
    ptx::wait(full, scores_.parity);
  }

  /// All blocks' shares together: always the same two, and then both sums.
  __device__ void read(int half, float (&scores)[kLaneScores]) const {
    const auto& shares = shared_.scores[scores_.index];
#pragma unroll
    for (int i = 0; i < kLaneScores / 4; ++i) {
      float4 sum = plus(shares[0][half][i][thread()], shares[1][half][i][thread()]);
      if constexpr (S::kCluster == 4)
        sum = plus(sum, plus(shares[2][half][i][thread()], shares[3][half][i][thread()]));
      scores[4 * i] = sum.x;
      scores[4 * i + 1] = sum.y;
      scores[4 * i + 2] = sum.z;
      scores[4 * i + 3] = sum.w;
    }
  }

  __device__ static float4 plus(const float4& a, const float4& b) {
    return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
  }

  /// Makes scores logarithms to base 2, in lanes that say so.
  __device__ void scale(float (&scores)[kLaneScores], bool wanted) const {
    if (!wanted) return;
    const float to_base_2 = call_.softmax_scale * kLog2e;
    const bool at_once = fabsf(to_base_2) < INFINITY;
#pragma unroll
    for (float& score : scores)
      score = at_once ? score * to_base_2 : score * call_.softmax_scale * kLog2e;
  }

  /// What no slot names has no weight.
  __device__ static void hide_unnamed(uint64_t named, float (&scores)[kLaneScores]) {
    const uint64_t own = named >> (2 * (lane() % 4));
#pragma unroll
    for (int k = 0; k < kLaneScores; ++k) {
      if ((own >> (8 * (k / 2) + k % 2) & 1) == 0) scores[k] = -INFINITY;
    }
  }

  /// One head's weights; returns what they add up to as they are.
  __device__ float make_weights(int half, const float (&scores)[kLaneScores],
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

  __device__ void rescale_if_moved(const float (&old_weight)[kHalves]) {
    bool moved = false;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) moved = moved || old_weight[half] != 1.0f;
    if (!__any_sync(~0u, moved)) [[likely]]
      return;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) rescale(half, old_weight[half]);
  }

  /// sums += weights · values, or without the old sums. Waits until they are there: products read
  /// weights in registers as long as they are under way, but the compiler gives the registers away.
  __device__ void weigh(const uint32_t (&weights)[kHalves][kLanePairs], bool first) {
    pin();
    ptx::begin_products();
    const auto ones = ptx::uniform(ptx::describe_operand(shared_.ones));
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t a[4] = {};
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        a[half] = weights[half][2 * step];
        a[2 + half] = weights[half][2 * step + 1];
      }
      const bool add = !first || step > 0;
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const auto values = ptx::uniform(ptx::describe_operand(
            &shared_.tokens[tokens_.index][part * kPartDims / kBlockDims], sizeof(Block)));
        ptx::multiply_add<kPartDims, true>(
            sums_[part].at, a, ptx::advance(values, 16 * step * sizeof(Block::lines[0])), add);
      }
      ptx::multiply_add<8, false>(weight_, a, ptx::advance(ones, 16 * step * sizeof(uint16_t)),
                                  add);
    }
    ptx::commit_products();
    ptx::wait_products<0>();
    pin();
  }

  __device__ void pin() {
    for (auto& part : sums_) ptx::pin(part.at);
    ptx::pin(weight_);
  }

  /// Pair `j`, of values 8 j + 2 (lane % 4) and the next.
  __device__ float* pair(int half, int j) {
    return &sums_[8 * j / kPartDims].at[4 * (j % (kPartDims / 8)) + 2 * half];
  }

  __device__ void rescale(int half, float factor) {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      pair(half, j)[0] *= factor;
      pair(half, j)[1] *= factor;
    }
    weight_[2 * half] *= factor;
  }

  __device__ static float of_quad(float sum) {
    sum += __shfl_xor_sync(~0u, sum, 1);
    return sum + __shfl_xor_sync(~0u, sum, 2);
  }

  /// Leaves the unit where it belongs: among the slots, in the row so far, or in the answer.
  __device__ void end_unit() {
    const UnitPlace place = tile_.place(own_part<S>());
#pragma unroll
    for (int half = 0; half < kHalves; ++half) end_unit(half, place);
    begin_unit();
  }

  __device__ void end_unit(int half, const UnitPlace& place) {
    const bool there = head(half) < heads_;
    const int head_of_all = first_head(call_) + head(half);
    float* out = partial_out(call_, place.partial, head_of_all) + first_dim() + 2 * (lane() % 4);
    float sum = of_quad(sum_[half]);
    // Of tokens whose scores are all beyond what a float can tell, nothing is known.
    if (sum == 0.0f && seen_) sum = NAN;
    SoftmaxState state = sum == 0.0f ? SoftmaxState{} : SoftmaxState{reference_[half] * kLn2, sum};
    // The products were made with rounded weights, the state with exact ones; bringing them to the
    // exact sum leaves only what rounding changed between the tokens.
    float factor = sum == 0.0f ? 1.0f : sum / weight_[2 * half];
    if (place.joins) [[unlikely]] {
      const Merged merged = merge(row_so_far(half), state);
      rescale(half, factor);
      if (there) join(half, out, merged);
      state = merged.state;
      factor = 1.0f;
    }
    __syncwarp();  // the quad has read it
    if (lane() % 4 == 0) row_so_far(half) = state;
    // One lane of one block tells what is known of the head.
    const bool tells = there && lane() % 4 == 0 && first_dim() == 0;
    if (place.finishes) [[likely]] {
      Finished finished = {};
      if (there) finished = finish_head(call_, state, head_of_all);
      if (tells) write_lse(call_, finished, tile_.row(), head_of_all);
      rescale(half, factor * finished.out_weight);
      write_answer(half, tile_.row(), there);
    } else {
      rescale(half, factor);
      if (there) store(half, out);
      if (tells && place.split) partial_states(call_, place.partial)[head_of_all] = state;
    }
  }

  /// A head's state up to the last unit. There are syncs of the warp enough between two units.
  __device__ SoftmaxState& row_so_far(int half) { return shared_.row_so_far[head(half)]; }

  /// Adds the row so far, which `merged` weighs.
  __device__ void join(int half, const float* left, const Merged& merged) {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const float2 before = *reinterpret_cast<const float2*>(left + 8 * j);
      float* sum = pair(half, j);
      sum[0] = merge_out(before.x, sum[0], merged);
      sum[1] = merge_out(before.y, sum[1], merged);
    }
  }

  __device__ void store(int half, float* out) {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const float* sum = pair(half, j);
      *reinterpret_cast<float2*>(out + 8 * j) = {sum[0], sum[1]};
    }
  }

  /// Writes the row's answer. Two lanes turn two pairs each of them, eight values apart, into four
  /// values each, so that a quad fills a sector of 32 bytes.
  __device__ void write_answer(int half, int row, bool there) {
    const Layer& layer = call_.layer;
    const bool odd = lane() % 2 != 0;
    uint16_t* out =
        layer.out +
        row_offset(layer.out_strides, call_.queries, row, first_head(call_) + head(half)) +
        first_dim() + 2 * (lane() % 4) + (odd ? 6 : 0);
    const bool aligned = reinterpret_cast<uintptr_t>(out) % sizeof(uint2) == 0;
    if (__all_sync(~0u, aligned)) [[likely]] {
      for_quads(half, [&](int j, const uint2& values) {
        if (there) *reinterpret_cast<uint2*>(out + 8 * j) = values;
      });
    } else {
      for_quads(half, [&](int j, const uint2& values) {
        if (!there) return;
        for (int i = 0; i < 4; ++i)
          out[8 * j + i] = static_cast<uint16_t>((i < 2 ? values.x : values.y) >> (16 * (i % 2)));
      });
    }
  }

  /// write(number of the first of two pairs, the lane's four values of them).
  template <class Write>
  __device__ void for_quads(int half, const Write& write) {
    const bool odd = lane() % 2 != 0;
#pragma unroll
    for (int j = 0; j < kPairs; j += 2) {
      const float *first = pair(half, j), *second = pair(half, j + 1);
      uint2 values = {bf16x2(first[0], first[1]), bf16x2(second[0], second[1])};
      const uint32_t received = __shfl_xor_sync(~0u, odd ? values.x : values.y, 1);
      (odd ? values.x : values.y) = received;
      write(j, values);
    }
  }

  /// Of products: heads by values.
  struct Sums {
    float at[kPartDims / 2];
  };

  const LayerCall& call_;
  Shared<S>& shared_;
  const int heads_;
  TileCursor tile_;
  Ring<S::kTokenBuffers> tokens_;
  Ring<S::kScoreBuffers> scores_;
  // Of the unit so far: heads by values, and each head's weight, rounded as in the products; for
  // this lane's heads the reference, what this thread's weights add up to, and whether scores are
  // scaled before they meet the reference; whether any token was named.
  Sums sums_[kParts];
  float weight_[4];
  float reference_[kHalves], sum_[kHalves];
  bool scaled_[kHalves], any_scaled_;  // any of the warp's
  bool seen_;
};

}  // namespace steady::cuda::sm90
