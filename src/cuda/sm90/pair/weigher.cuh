// SPDX-License-Identifier: Apache-2.0
// Tiles of tokens and their weights in, this block's share of the answers of whole rows and of the
// partials of split rows out: the work of one warpgroup.
#pragma once

#include "cuda/sm90/pair/shared.cuh"

namespace steady::cuda::sm90::pair {

template <class S>
class Weigher {
 public:
  __device__ Weigher(const Call& call, Shared<S>& shared)
      : call_(call), shared_(shared), heads_(heads_here(call)), tile_(call) {}

  /// All tiles of a part that has some.
  __device__ void part(const PartRange& range) {
    for (uint32_t i = 0; i < S::kBuffers; ++i) {
      expect_weights(i);
      expect_unit_end(i);
    }
    tile_.start(range);
    ptx::wait_for_earlier_grids();
    for (; tile_.valid(); tile_.advance()) {
      // The unit's end, which is far longer, stands behind the loop, not in its midst.
#pragma unroll 1
      for (;; tile_.advance_in_unit()) {
        buffer_.wait_full(shared_.weights_full);
        tokens_.wait_full(shared_.tokens_full);  // scorers have waited for them, products have not
        expect_weights(buffer_.index);           // in the next round
        const bool first = tile_.first_of_unit();
        if (!first) rescale_if_moved();
        weigh(!first);
        hand_over(&shared_.tokens_empty[tokens_.index]);
        tokens_.advance();
        if (tile_.last_of_unit()) break;
        hand_over_weights();
      }
      end_unit();
    }
  }

 private:
  static constexpr int kHalves = S::kHalves;
  static constexpr int kPairs = UnitSums<S::kOwnDims>::kPairs;

  __device__ static int warp() { return static_cast<int>(threadIdx.x) % kGroupThreads / 32; }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ static int head(int half) { return S::first_head(warp(), half) + lane() / 4; }
  /// Of this block's share; asked for where it is needed, because there is no register to keep it.
  __device__ static int first_dim() { return ptx::cluster_rank() * S::kOwnDims; }
  __device__ static int row(int half) { return 16 * warp() + 8 * half + lane() / 4; }

  /// What the other block's scorer sends: `bytes(heads)` for each eight rows that have heads.
  template <class Bytes>
  __device__ void expect(uint64_t* barrier, const Bytes& bytes) const {
    if (threadIdx.x % kGroupThreads != 0) return;
    int all = 0;
    for (int warp = 0; warp < kWarps; ++warp) {
      for (int half = 0; half < kHalves; ++half) {
        if (S::maker(warp, half) != ptx::cluster_rank() && S::has_heads(warp, half, heads_))
          all += bytes(min(8, heads_ - S::first_head(warp, half)));
      }
    }
    ptx::arrive_and_expect(barrier, all);
  }
  __device__ void expect_weights(uint32_t buffer) const {
    constexpr int kBytes = 8 * (sizeof(Block::lines[0]) + sizeof(float));
    expect(&shared_.weights_full[buffer], [](int) { return kBytes; });
  }
  __device__ void expect_unit_end(uint32_t unit) const {
    expect(&shared_.unit_end_full[unit],
           [](int heads) { return heads * static_cast<int>(sizeof(HeadEnd)); });
  }

  __device__ void hand_over_weights() {
    ptx::arrive(&shared_.weights_empty[buffer_.index]);
    buffer_.advance();
  }

  /// Old sums are worth less where a reference moved.
  __device__ void rescale_if_moved() {
    float old_weight[kHalves];
    bool moved = false;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      old_weight[half] = shared_.old_weights[buffer_.index][row(half)];
      moved = moved || (head(half) < heads_ && old_weight[half] != 1.0f);
    }
    if (!__any_sync(~0u, moved)) [[likely]]
      return;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) sums_.rescale(half, old_weight[half]);
  }

  /// sums += weights · values, or without the old sums if !add_old. Of rows without heads nobody
  /// reads the sums.
  __device__ void weigh(bool add_old) {
    ptx::fence_shared_writes();  // of weights
    const auto weights = ptx::uniform(ptx::describe_operand(&shared_.weights[buffer_.index]));
    sums_.template weigh<kTokens, ptx::kEightLines>(weights, shared_.tokens[tokens_.index],
                                                    shared_.ones, add_old, [](int) {});
  }

  /// Leaves the unit where it belongs: among the slots, in the row so far, or in the answer.
  __device__ void end_unit() {
    unit_.wait_full(shared_.unit_end_full);
    HeadEnd ends[kHalves];
#pragma unroll
    for (int half = 0; half < kHalves; ++half)
      ends[half] = shared_.unit_ends[unit_.index][row(half)];
    expect_unit_end(unit_.index);  // in the next round
    unit_.advance();
    hand_over_weights();  // from here on there may be a later unit's end
    const UnitPlace place = tile_.place();
#pragma unroll
    for (int half = 0; half < kHalves; ++half) end_unit(half, ends[half], place);
  }

  __device__ void end_unit(int half, const HeadEnd& end, const UnitPlace& place) {
    const bool there = head(half) < heads_;
    const auto kept = [&] { return kept_sums<kHalves * S::kOwnDims / 4>(call_, 1, 0); };
    sums_.end(half, end, place, kept);
    if (place.finishes) [[likely]] {
      write_answer(half, tile_.row(), there);
    } else if (!place.split) {
      sums_.keep(half, kept());
    } else if (there) {
      sums_.store(half, partial_out(call_, place.slot, first_head(call_) + head(half)) +
                            first_dim() + 2 * (lane() % 4));
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
  Ring<S::kBuffers> buffer_, unit_;
  UnitSums<S::kOwnDims> sums_;
};

}  // namespace steady::cuda::sm90::pair
