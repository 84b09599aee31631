// SPDX-License-Identifier: Apache-2.0
// What a weigher adds up over a unit, values by heads, and what is done to it at the unit's end.
#pragma once

#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/columns/shared.cuh"

namespace steady::cuda::sm90::columns {

/// Of the values in each of the own blocks a lane has two rows of products, and of every
/// eight heads two.
template <class S>
class ColumnSums {
 public:
  static constexpr int kHeads = S::kHeads, kWeighedBlocks = S::kWeighedBlocks;
  static constexpr int kLaneHeads = kHeads / 4;
  /// Of sums in a block, head after head.
  static constexpr int kPairs = kLaneHeads * kWeighedBlocks;
  static_assert(kPairs % 2 == 0);
  /// Ones of which the compiler does not know that they are the same take four registers. If it
  /// does, it keeps one and copies it for each product. In clusters of two there are none to spare.
  static constexpr bool kPinsOnes = S::kCluster > 2;

  __device__ ColumnSums() {
    const uint32_t pair = bf16x2(1.0f, 1.0f) | (kPinsOnes ? 0 : ptx::zero());
    ones_ = {{pair, pair, pair, pair}};
  }

  /// The lane's `i`-th head, and the value that its upper row in a block is. Its lower row is the
  /// next value, in the last block of all the eighth after it.
  __device__ static int head(int i) { return 8 * (i / 2) + 2 * (lane() % 4) + i % 2; }
  __device__ static int upper_dim(int block) {
    return 16 * (thread() / 32) + (is_last_weighed<S>(block) ? lane() / 4 : lane() / 4 * 2);
  }

  /// Begins sums += values · weights, or without the old sums if !add_old.
  __device__ void begin(const Block (&values)[kWeighedBlocks], const Lines<kHeads>& weights,
                        bool add_old) {
    pin();
    if constexpr (kPinsOnes) ptx::pin(ones_);
    ptx::begin_products();
    const auto columns = ptx::uniform(ptx::describe_operand(&weights));
    const auto rows = ptx::uniform(ptx::describe_operand(values));
#pragma unroll
    for (int step = 0; step < kTokens / 16; ++step) {
      const auto b = ptx::advance(columns, 16 * step * sizeof(uint16_t));
      const bool add = add_old || step > 0;
#pragma unroll
      for (int block = 0; block < kWeighedBlocks; ++block) {
        ptx::multiply_add<kHeads, false, ptx::kEightLines, true>(
            sums_[block].at,
            ptx::advance(rows, block * sizeof(Block) + 16 * step * sizeof(Block::lines[0])), b,
            add);
      }
      ptx::multiply_add<kHeads>(weights_, ones_, b, add);
    }
    ptx::commit_products();
  }
  /// Waits until they are there.
  __device__ void finish() {
    ptx::wait_products<0>();
    if constexpr (kPinsOnes) ptx::keep(ones_);
    pin();
  }

  /// A head's weight, rounded as in the products.
  __device__ float weight(int i) const { return weights_[at(i, 0)]; }

  __device__ void rescale(int i, float factor) {
#pragma unroll
    for (auto& block : sums_) {
      block.at[at(i, 0)] *= factor;
      block.at[at(i, 1)] *= factor;
    }
    weights_[at(i, 0)] *= factor;
  }

  /// The row so far, as keep() has left it, read at once: one latency for all of it.
  struct Before {
    float4 at[kPairs / 2];

    __device__ explicit Before(const float4* kept) {
#pragma unroll
      for (int i = 0; i < kPairs / 2; ++i) at[i] = kept[i * kGroupThreads];
    }
  };

  /// Adds the row so far, which `merged` weighs.
  __device__ void join(int i, const Before& all, const Merged& merged) {
#pragma unroll
    for (int block = 0; block < kWeighedBlocks; ++block) {
      const int pair = i * kWeighedBlocks + block;
      const float4& before = all.at[pair / 2];
      float* const sums = sums_[block].at;
      sums[at(i, 0)] = merge_out(pair % 2 == 0 ? before.x : before.z, sums[at(i, 0)], merged);
      sums[at(i, 1)] = merge_out(pair % 2 == 0 ? before.y : before.w, sums[at(i, 1)], merged);
    }
  }

  /// Leaves the sums for join() by the same thread; threads beside each other.
  __device__ void keep(float4* kept) const {
#pragma unroll
    for (int i = 0; i < kPairs / 2; ++i) {
      kept[i * kGroupThreads] = {of_pair(2 * i, 0), of_pair(2 * i, 1), of_pair(2 * i + 1, 0),
                                 of_pair(2 * i + 1, 1)};
    }
  }

  /// Leaves the sums of a head for merge, in its `out`.
  __device__ void store(int i, float* out) const {
#pragma unroll
    for (int block = 0; block < kWeighedBlocks; ++block) {
      float* const upper = out + block * kBlockDims + upper_dim(block);
      upper[0] = sums_[block].at[at(i, 0)];
      upper[is_last_weighed<S>(block) ? 8 : 1] = sums_[block].at[at(i, 1)];
    }
  }

  /// A head's two values in a block, rounded.
  __device__ uint32_t pair(int block, int i) const {
    return bf16x2(sums_[block].at[at(i, 0)], sums_[block].at[at(i, 1)]);
  }

 private:
  struct OfBlock {
    float at[kHeads / 2];
  };

  __device__ static int thread() { return ptx::thread_number() % kGroupThreads; }
  __device__ static int lane() { return ptx::thread_number() % 32; }
  /// Of a product's sums those of the lane's `i`-th head.
  __device__ static constexpr int at(int i, int lower) { return 4 * (i / 2) + 2 * lower + i % 2; }
  /// Of the pair the upper row's sum, or the lower one's.
  __device__ float of_pair(int pair, int lower) const {
    return sums_[pair % kWeighedBlocks].at[at(pair / kWeighedBlocks, lower)];
  }
  __device__ void pin() {
    for (auto& block : sums_) ptx::pin(block.at);
    ptx::pin(weights_);
  }

  OfBlock sums_[kWeighedBlocks];
  float weights_[kHeads / 2];
  ptx::Fragment ones_;
};

}  // namespace steady::cuda::sm90::columns
