// SPDX-License-Identifier: Apache-2.0
// Tiles of tokens in, this block's share of their scores out, each head's to the block that makes
// its weights: the work of one warpgroup. Tokens are the rows of products, heads the columns.
#pragma once

#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/four/shared.cuh"

namespace steady::cuda::sm90::four {

template <class S>
class Scorer {
 public:
  __device__ Scorer(const LayerCall& call, Shared<S>& shared)
      : call_(call),
        rank_(ptx::cluster_rank()),
        shared_(shared),
        heads_(heads_here(call)),
        tile_(call) {}

  /// All tiles of a part that has some.
  __device__ void part(const PartRange& range) {
    tile_.start(range);
    load_queries(tile_.row(), 0);
    while (tile_.valid()) {
      if (tile_.first_of_row_here()) [[unlikely]]
        change_queries();
      const int tiles = tile_.tiles();
#pragma unroll 1
      for (int i = 0; i < tiles; ++i) {
        tokens_.wait_full(shared_.tokens_full);
        ptx::fence_shared_writes();
        Sums sums;
        multiply(&sums);
        send(sums);
        hand_over(&shared_.tokens_empty[tokens_.index]);
        tokens_.advance();
      }
      tile_.advance(tiles);
    }
  }

 private:
  /// Of products, over the quarter of a vector that this block has. Products cut off what is small
  /// beside the sum so far: quarters are summed apart.
  struct Sums {
    float at[S::kHeads / 2];
  };

  __device__ static int thread() { return static_cast<int>(threadIdx.x) % kGroupThreads; }
  __device__ static int warp() { return thread() / 32; }
  __device__ static void sync() { ptx::sync(NamedBarriers::kScorer, kGroupThreads); }

  /// Waits for the queries of the tile's row, and begins to load the next one's.
  __device__ void change_queries() {
    queries_ ^= 1;
    ptx::wait_copies();
    ptx::fence_shared_writes();
    sync();  // all have theirs there, and nobody needs the last row's
    if (tile_.goes_on()) load_queries(tile_.row() + 1, queries_ ^ 1);
  }

  /// Begins to load this block's share of a row's queries.
  __device__ void load_queries(int row, int buffer) {
    constexpr int kChunks = kOwnDims / kChunkDims, kStep = kGroupThreads / kChunks;
    const Layer& layer = call_.layer;
    const int chunk = thread() % kChunks, first = thread() / kChunks;
    const uint16_t* q = layer.q +
                        row_offset(layer.q_strides, call_.queries, row, first_head(call_) + first) +
                        rank_ * kOwnDims + chunk * kChunkDims;
    const bool aligned = reinterpret_cast<uintptr_t>(q) % sizeof(Chunk) == 0 &&
                         layer.q_strides.head % kChunkDims == 0;
    auto& block = shared_.q[buffer][chunk / kBlockChunks];
#pragma unroll 1
    for (int head = first; head < heads_; head += kStep, q += kStep * layer.q_strides.head) {
      Chunk* const place = block.at(head, chunk % kBlockChunks);
      if (aligned) [[likely]] {
        ptx::copy_async_16(place, q);
      } else {
        *place = read_chunk(q);
      }
    }
  }

  /// sums = tokens · q, over the values that this block shares.
  __device__ void multiply(Sums* sums) {
    const auto q = ptx::uniform(ptx::describe_operand(shared_.q[queries_]));
    const auto tokens = ptx::uniform(ptx::describe_operand(shared_.tokens[tokens_.index]));
    ptx::begin_products();
#pragma unroll
    for (int d = 0; d < kOwnDims; d += 16) {
      const int block = d / kBlockDims;
      const uint32_t bytes = d % kBlockDims * sizeof(uint16_t);
      ptx::multiply_add<S::kHeads>(sums->at, ptx::advance(tokens, block * sizeof(Block) + bytes),
                                   ptx::advance(q, block * sizeof(Lines<S::kHeads>) + bytes),
                                   d > 0);
    }
    ptx::commit_products();
    ptx::wait_products<0>();
    ptx::pin(sums->at);
  }

  /// Sends each head's scores to the block that makes its weights: of every eight heads a lane has
  /// two, which one block makes.
  __device__ void send(const Sums& sums) {
    const int lane = thread() % 32, maker = lane % kCluster, row = 8 * warp() + lane / 4;
    const ptx::Remote to = ptx::in_block(&shared_.scores[tokens_.index][rank_][0][row], maker);
    const ptx::Remote full = ptx::in_block(&shared_.scores_full[tokens_.index], maker);
#pragma unroll
    for (int two = 0; two < S::kTwos; ++two) {
      const float* sum = &sums.at[4 * two];
      ptx::store_async(ptx::advance(to, two * sizeof(shared_.scores[0][0][0])),
                       float4{sum[0], sum[1], sum[2], sum[3]}, full);
    }
  }

  const LayerCall& call_;
  const int rank_;
  Shared<S>& shared_;
  const int heads_;
  TileCursor tile_;
  Ring<S::kTokenBuffers> tokens_;
  int queries_ = 1;  // which buffer is used
};

}  // namespace steady::cuda::sm90::four
