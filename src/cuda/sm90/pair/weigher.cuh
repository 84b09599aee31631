// SPDX-License-Identifier: Apache-2.0
// Tiles of tokens and all blocks' shares of their scores in, this block's share of the answers of
// whole rows and of the partials of split rows out: the work of one warpgroup.
//
// Every block turns all scores into weights, in the same order, and so to the same bits. Weights go
// to the products in the registers where they are made.
#pragma once

#include "cuda/sm90/pair/shared.cuh"

namespace steady::cuda::sm90::pair {

template <class S>
class Weigher {
 public:
  __device__ Weigher(const Call& call, Shared<S>& shared)
      : call_(call), shared_(shared), heads_(heads_here(call)), tile_(call), head_weights_(call) {}

  /// All tiles of a part that has some.
  __device__ void part(const PartRange& range) {
    head_weights_.begin_unit();
    tile_.start(range);
    ptx::wait_for_earlier_grids();
    for (; tile_.valid(); tile_.advance()) {
      // The unit's end, which is far longer, stands behind the loop, not in its midst.
#pragma unroll 1
      for (;; tile_.advance_in_unit()) {
        tokens_.wait_full(shared_.tokens_full);
        uint32_t weights[kHalves][InQuad::kScores / 2];
        float old_weight[kHalves];
        make_weights(weights, old_weight);
        const bool first = tile_.first_of_unit();
        if (!first) rescale_if_moved(old_weight);
        weigh(weights, !first);
        hand_over(&shared_.tokens_empty[tokens_.index]);
        tokens_.advance();
        if (tile_.last_of_unit()) break;
      }
      end_unit();
    }
  }

 private:
  static constexpr int kHalves = S::kHalves;
  static constexpr int kPairs = UnitSums<S::kOwnDims>::kPairs;

  /// The scorer's thread whose scores this one turns into weights. With few heads only the first
  /// warps have some: in the two roles they are to be of different schedulers.
  __device__ static int thread() {
    return static_cast<int>(threadIdx.x + kGroupThreads / 2) % kGroupThreads;
  }
  __device__ static int warp() { return thread() / 32; }
  __device__ static int lane() { return thread() % 32; }
  __device__ static int head(int half) { return S::first_head(warp(), half) + lane() / 4; }
  /// Of this block's share; asked for where it is needed, because there is no register to keep it.
  __device__ static int first_dim() { return ptx::cluster_rank() * S::kOwnDims; }

  /// The next tile's weights 2^(score as a logarithm to base 2 - reference), rounded, in pairs, and
  /// what the sums so far are worth after references moved.
  __device__ void make_weights(uint32_t (&weights)[kHalves][InQuad::kScores / 2],
                               float (&old_weight)[kHalves]) {
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      old_weight[half] = 1.0f;
      for (uint32_t& pair : weights[half]) pair = 0;
    }
    if (S::first_head(warp(), 0) >= heads_) return;
    wait_for_scores();
    const uint64_t named = read_named();
    head_weights_.see(named != 0);
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      float scores[InQuad::kScores];
      read(half, scores);
      if (half == kHalves - 1)
        hand_over_to_cluster<S>(&shared_.scores_empty[warp()][scores_.index]);
      if (head_weights_.any_scaled()) [[unlikely]]
        head_weights_.scale(half, scores);
      if (named != ~uint64_t{0}) [[unlikely]]
        hide_unnamed(named, scores);
      float sum;
      for (;;) {
        sum = head_weights_.weigh(half, scores, weights[half]);
        if (!__any_sync(~0u, head_weights_.are_large(sum))) [[likely]]
          break;
        head_weights_.move_reference(half, scores, sum, &old_weight[half]);
      }
      head_weights_.add(half, sum);
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
      ptx::arrive_and_expect(full, S::kCluster * 32 * kHalves * InQuad::kScores * sizeof(float));
    __syncwarp();
    ptx::wait(full, scores_.parity);
  }

  /// Both blocks' shares together.
  __device__ void read(int half, float (&scores)[InQuad::kScores]) const {
    const auto& shares = shared_.scores[scores_.index];
#pragma unroll
    for (int i = 0; i < InQuad::kScores / 4; ++i) {
      const float4 sum = plus(shares[0][half][i][thread()], shares[1][half][i][thread()]);
      scores[4 * i] = sum.x;
      scores[4 * i + 1] = sum.y;
      scores[4 * i + 2] = sum.z;
      scores[4 * i + 3] = sum.w;
    }
  }

  /// What no slot names has no weight.
  __device__ static void hide_unnamed(uint64_t named, float (&scores)[InQuad::kScores]) {
    const uint64_t own = named >> (2 * (lane() % 4));
#pragma unroll
    for (int k = 0; k < InQuad::kScores; ++k) {
      if ((own >> (8 * (k / 2) + k % 2) & 1) == 0) scores[k] = -INFINITY;
    }
  }

  __device__ void rescale_if_moved(const float (&old_weight)[kHalves]) {
    bool moved = false;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) moved = moved || old_weight[half] != 1.0f;
    if (!__any_sync(~0u, moved)) [[likely]]
      return;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) sums_.rescale(half, old_weight[half]);
  }

  /// sums += weights · values, or without the old sums if !add_old.
  __device__ void weigh(const uint32_t (&weights)[kHalves][InQuad::kScores / 2], bool add_old) {
    // Rows without heads have no weights. Zeros that the compiler knows would be made again for
    // each product.
    const uint32_t none = ptx::zero();
    ptx::Fragment fragments[kTokens / 16];
#pragma unroll
    for (int step = 0; step < kTokens / 16; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t pair = weights[i % kHalves][2 * step + i / 2];
        fragments[step].at[i] = i % 2 < kHalves ? pair : pair & none;
      }
    }
    const auto of_step = [&](int step) { return fragments[step]; };
    sums_.template weigh<kTokens, ptx::kEightLines>(of_step, shared_.tokens[tokens_.index],
                                                    shared_.ones, add_old, [](int) {});
  }

  /// Leaves the unit where it belongs: among the slots, in the row so far, or in the answer.
  __device__ void end_unit() {
    const UnitPlace place = tile_.place();
#pragma unroll
    for (int half = 0; half < kHalves; ++half) end_unit(half, place);
    head_weights_.begin_unit();
  }

  __device__ void end_unit(int half, const UnitPlace& place) {
    const bool there = head(half) < heads_;
    const int head_of_all = first_head(call_) + head(half);
    const auto kept = [&] { return kept_sums<kHalves * S::kOwnDims / 4>(call_, 1, 0); };
    const float sum = head_weights_.unit_sum(half);
    SoftmaxState state = head_weights_.state(half, sum);
    float factor = to_exact_sum(sum, sums_.weight(half));
    if (place.joins) [[unlikely]] {
      const Merged merged = merge(row_so_far(half), state);
      sums_.rescale(half, factor);
      sums_.join(half, kept(), merged);
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
      if (tells) write_lse(call_, finished.lse, tile_.row(), head_of_all);
      sums_.rescale(half, factor * finished.out_weight);
      write_answer(half, tile_.row(), there);
    } else {
      sums_.rescale(half, factor);
      if (!place.split) {
        sums_.keep(half, kept());
      } else if (there) {
        sums_.store(half,
                    partial_out(call_, place.slot, head_of_all) + first_dim() + 2 * (lane() % 4));
      }
      if (tells && place.split) partial_states(call_, place.slot)[head_of_all] = state;
    }
  }

  /// A head's state up to the last unit. There are syncs of the warp enough between two units.
  __device__ SoftmaxState& row_so_far(int half) { return shared_.row_so_far[head(half)]; }

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
      const float *first = sums_.pair(half, j), *second = sums_.pair(half, j + 1);
      uint2 values = {bf16x2(first[0], first[1]), bf16x2(second[0], second[1])};
      const uint32_t received = __shfl_xor_sync(~0u, odd ? values.x : values.y, 1);
      (odd ? values.x : values.y) = received;
      write(j, values);
    }
  }

  const Call& call_;
  Shared<S>& shared_;
  const int heads_;
  TileCursor tile_;
  Ring<S::kTokenBuffers> tokens_;
  Ring<S::kScoreBuffers> scores_;
  HeadWeights<kHalves, InQuad> head_weights_;
  UnitSums<S::kOwnDims> sums_;
};

}  // namespace steady::cuda::sm90::pair
