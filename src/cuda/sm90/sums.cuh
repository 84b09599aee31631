// SPDX-License-Identifier: Apache-2.0
// What a weigher adds up over a unit, heads by values, and what is done to it at the unit's end.
#pragma once

#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/weights.cuh"

namespace steady::cuda::sm90 {

/// Columns of ones, by which products add up weights as they are rounded; the beginning of a Block.
using Ones = Chunk[8][kBlockChunks];

/// By all threads of the block, which meet afterwards.
__device__ inline void fill_with_ones(Ones& ones) {
  if (threadIdx.x >= sizeof(Ones) / sizeof(Chunk)) return;
  const uint32_t pair = bf16x2(1.0f, 1.0f);
  (&ones[0][0])[threadIdx.x] = {pair, pair, pair, pair};
  ptx::fence_shared_writes();
}

/// Of a lane's heads, one in each half of its warp's rows.
template <int kDims>
class UnitSums {
 public:
  static constexpr int kPairs = kDims / 8;  // of values, in each of a lane's rows

  /// sums += weights · values of a tile, or without the old sums if !add_old, and waits until they
  /// are there. `weights` describes weights as the left operand, heads by tokens. `weighed(piece)`
  /// is called when kPieceTokens more need not be kept. Of each block of values eight tokens' begin
  /// kEightBytes after those of the eight before.
  template <int kPieceTokens, int kEightBytes, int kLines, class Operand, class Weighed>
  __device__ void weigh(const Operand& weights, const Lines<kLines>* values, const Ones& columns,
                        bool add_old, const Weighed& weighed) {
    constexpr int kSteps = kTokens / 16, kPieceSteps = kPieceTokens / 16;
    pin();
    ptx::begin_products();
    const auto ones = ptx::uniform(ptx::describe_operand(columns));
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const auto a = ptx::advance(weights, 16 * step * sizeof(uint16_t));
      const bool add = add_old || step > 0;
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const auto operand = ptx::uniform(
            ptx::describe_operand(&values[part * kPartDims / kBlockDims], sizeof *values));
        ptx::multiply_add<kPartDims, true, kEightBytes>(
            sums_[part].at, a, ptx::advance(operand, 2 * step * kEightBytes), add);
      }
      ptx::multiply_add<8>(weight_, a, ptx::advance(ones, 16 * step * sizeof(uint16_t)), add);
      if ((step + 1) % kPieceSteps == 0) ptx::commit_products();
    }
    if constexpr (kPieceSteps < kSteps) {
      static_assert(2 * kPieceSteps == kSteps);
      ptx::wait_products<1>();
      weighed(0);
    }
    ptx::wait_products<0>();
    pin();
    weighed(kSteps / kPieceSteps - 1);
  }

  /// A head's weight, rounded as in the products.
  __device__ float weight(int half) const { return weight_[2 * half]; }

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

  /// Makes of a unit's sums what is to be left of them. `kept()` is where the row so far lies.
  template <class Kept>
  __device__ void end(int half, const HeadEnd& end, const UnitPlace& place, const Kept& kept) {
    const float scale = to_exact_sum(end.sum, weight(half));
    if (place.joins) [[unlikely]] {
      rescale(half, scale);
      join(half, kept(), {{}, end.left_weight, end.right_weight});
      rescale(half, end.finish);
    } else {
      rescale(half, scale * end.finish);
    }
  }

  /// Adds the row so far, which `merged` weighs, as keep() has left it.
  __device__ void join(int half, const float4* kept, const Merged& merged) {
#pragma unroll
    for (int j = 0; j < kPairs; j += 2) {
      // More loads under way than these would take registers that are not there.
      if (j % 8 == 0) ptx::keep_order();
      const float4 before = kept[kept_at(half, j)];
      float *const first = pair(half, j), *const second = pair(half, j + 1);
      first[0] = merge_out(before.x, first[0], merged);
      first[1] = merge_out(before.y, first[1], merged);
      second[0] = merge_out(before.z, second[0], merged);
      second[1] = merge_out(before.w, second[1], merged);
    }
  }

  /// Leaves the sums of a half for join() by the same thread.
  __device__ void keep(int half, float4* kept) {
#pragma unroll
    for (int j = 0; j < kPairs; j += 2) {
      const float *const first = pair(half, j), *const second = pair(half, j + 1);
      kept[kept_at(half, j)] = {first[0], first[1], second[0], second[1]};
    }
  }

  /// Leaves the sums of a half for merge, at `out` of its head.
  __device__ void store(int half, float* out) {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const float* sum = pair(half, j);
      *reinterpret_cast<float2*>(out + 8 * j) = {sum[0], sum[1]};
    }
  }

 private:
  /// Of one product; more columns would take more registers than the kernel begins with.
  static constexpr int kPartDims = 128, kParts = kDims / kPartDims;
  struct Part {
    float at[kPartDims / 2];
  };

  /// Threads of a warpgroup beside each other.
  __device__ static int kept_at(int half, int j) { return (half * kPairs + j) / 2 * kGroupThreads; }

  __device__ void pin() {
    for (auto& part : sums_) ptx::pin(part.at);
    ptx::pin(weight_);
  }

  Part sums_[kParts];
  float weight_[4];
};

}  // namespace steady::cuda::sm90
