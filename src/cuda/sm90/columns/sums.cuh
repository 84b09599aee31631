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
  static constexpr int kHeads = S::kHeads, kOwnBlocks = S::kOwnBlocks;
  static constexpr int kLaneHeads = kHeads / 4;

  /// One is the same for all weights.
  __device__ ColumnSums() {
    const uint32_t pair = bf16x2(1.0f, 1.0f) | ptx::zero();
    ones_ = {{pair, pair, pair, pair}};
  }

  /// The lane's `i`-th head, and the value that its upper row in a block is. Its lower row is the
  /// next value, in the last block of all the eighth after it.
  __device__ static int head(int i) { return 8 * (i / 2) + 2 * (lane() % 4) + i % 2; }
  __device__ static int upper_dim(int block) {
    return 16 * (thread() / 32) + (is_last_block<S>(block) ? lane() / 4 : lane() / 4 * 2);
  }

  /// Begins sums += values · weights, or without the old sums if !add_old.
  __device__ void begin(const Block (&values)[kOwnBlocks], const Lines<kHeads>& weights,
                        bool add_old) {
    pin();
    ptx::begin_products();
    const auto columns = ptx::uniform(ptx::describe_operand(&weights));
    const auto rows = ptx::uniform(ptx::describe_operand(values));
#pragma unroll
    for (int step = 0; step < kTokens / 16; ++step) {
      const auto b = ptx::advance(columns, 16 * step * sizeof(uint16_t));
      const bool add = add_old || step > 0;
#pragma unroll
      for (int block = 0; block < kOwnBlocks; ++block) {
        ptx::multiply_add<kHeads, false, true>(
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
    float4 at[kLaneHeads][kOwnBlocks / 2];

    __device__ explicit Before(const float4* kept) {
#pragma unroll
      for (int i = 0; i < kLaneHeads; ++i) {
#pragma unroll
        for (int block = 0; block < kOwnBlocks; block += 2)
          at[i][block / 2] = kept[kept_at(i, block)];
      }
    }
  };

  /// Adds the row so far, which `merged` weighs.
  __device__ void join(int i, const Before& all, const Merged& merged) {
#pragma unroll
    for (int block = 0; block < kOwnBlocks; block += 2) {
      const float4& before = all.at[i][block / 2];
      float *const first = sums_[block].at, *const second = sums_[block + 1].at;
      first[at(i, 0)] = merge_out(before.x, first[at(i, 0)], merged);
      first[at(i, 1)] = merge_out(before.y, first[at(i, 1)], merged);
      second[at(i, 0)] = merge_out(before.z, second[at(i, 0)], merged);
      second[at(i, 1)] = merge_out(before.w, second[at(i, 1)], merged);
    }
  }

  /// Leaves the sums of a head for join() by the same thread.
  __device__ void keep(int i, float4* kept) const {
#pragma unroll
    for (int block = 0; block < kOwnBlocks; block += 2) {
      const float *const first = sums_[block].at, *const second = sums_[block + 1].at;
      kept[kept_at(i, block)] = {first[at(i, 0)], first[at(i, 1)], second[at(i, 0)],
                                 second[at(i, 1)]};
    }
  }

  /// Leaves the sums of a head for merge, in its `out`.
  __device__ void store(int i, float* out) const {
#pragma unroll
    for (int block = 0; block < kOwnBlocks; ++block) {
      float* const upper = out + block * kBlockDims + upper_dim(block);
      upper[0] = sums_[block].at[at(i, 0)];
      upper[is_last_block<S>(block) ? 8 : 1] = sums_[block].at[at(i, 1)];
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
  /// Threads beside each other, of two blocks.
  __device__ static constexpr int kept_at(int i, int block) {
    return (i * kOwnBlocks + block) / 2 * kGroupThreads;
  }
  __device__ void pin() {
    for (auto& block : sums_) ptx::pin(block.at);
    ptx::pin(weights_);
  }

  OfBlock sums_[kOwnBlocks];
  float weights_[kHeads / 2];
  ptx::Fragment ones_;
};

}  // namespace steady::cuda::sm90::columns
