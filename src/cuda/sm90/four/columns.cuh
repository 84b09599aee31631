// SPDX-License-Identifier: Apache-2.0
// What a weigher adds up over a unit, values by heads, and what is done to it at the unit's end.
#pragma once

#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/four/shared.cuh"

namespace steady::cuda::sm90::four {

/// Answers on their way to the caller, so that threads store what lies together. Of eight lanes
/// that load or store together no two have the same banks.
template <class S>
struct Answers {
  Chunk lines[S::kHeads][kOwnDims / kChunkDims];

  __device__ Chunk* at(int head, int chunk) { return &lines[head][chunk ^ head % 8]; }
};

/// Of the values in each of the block's two blocks a lane has two rows, eight apart, and of every
/// eight heads two.
template <int kHeads>
class Columns {
 public:
  static constexpr int kLaneHeads = kHeads / 4;
  static_assert(kOwnBlocks == 2);

  /// One is the same for all weights.
  __device__ Columns() {
    const uint32_t pair = bf16x2(1.0f, 1.0f) | ptx::zero();
    ones_ = {{pair, pair, pair, pair}};
  }

  /// The lane's `i`-th head, and the first of its rows in a block.
  __device__ static int head(int i) { return 8 * (i / 2) + 2 * (lane() % 4) + i % 2; }
  __device__ static int row() { return 16 * (thread() / 32) + lane() / 4; }

  /// sums += values · weights, or without the old sums if !add_old. Waits until they are there.
  __device__ void weigh(const Block (&values)[kOwnBlocks], const Lines<kHeads>& weights,
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

  /// Adds the row so far, which `merged` weighs, as keep() has left it.
  __device__ void join(int i, const float4* kept, const Merged& merged) {
    const float4 before = kept[i * kGroupThreads];
    float *const first = sums_[0].at, *const second = sums_[1].at;
    first[at(i, 0)] = merge_out(before.x, first[at(i, 0)], merged);
    first[at(i, 1)] = merge_out(before.y, first[at(i, 1)], merged);
    second[at(i, 0)] = merge_out(before.z, second[at(i, 0)], merged);
    second[at(i, 1)] = merge_out(before.w, second[at(i, 1)], merged);
  }

  /// Leaves the sums of a head for join() by the same thread.
  __device__ void keep(int i, float4* kept) const {
    const float *const first = sums_[0].at, *const second = sums_[1].at;
    kept[i * kGroupThreads] = {first[at(i, 0)], first[at(i, 1)], second[at(i, 0)],
                               second[at(i, 1)]};
  }

  /// Leaves the sums of a head for merge, at the lane's first row of its `out`.
  __device__ void store(int i, float* out) const {
#pragma unroll
    for (int block = 0; block < kOwnBlocks; ++block) {
      out[block * kBlockDims] = sums_[block].at[at(i, 0)];
      out[block * kBlockDims + 8] = sums_[block].at[at(i, 1)];
    }
  }

  /// Two heads of the `eight`-th eight, in a block's upper or lower row, rounded.
  __device__ uint32_t pair(int eight, int block, int lower) const {
    const float* sums = &sums_[block].at[4 * eight + 2 * lower];
    return bf16x2(sums[0], sums[1]);
  }

 private:
  struct OfBlock {
    float at[kHeads / 2];
  };

  __device__ static int thread() { return ptx::thread_number() % kGroupThreads; }
  __device__ static int lane() { return ptx::thread_number() % 32; }
  /// Of a product's sums those of the lane's `i`-th head.
  __device__ static constexpr int at(int i, int lower) { return 4 * (i / 2) + 2 * lower + i % 2; }
  __device__ void pin() {
    for (auto& block : sums_) ptx::pin(block.at);
    ptx::pin(weights_);
  }

  OfBlock sums_[kOwnBlocks];
  float weights_[kHeads / 2];
  ptx::Fragment ones_;
};

}  // namespace steady::cuda::sm90::four
