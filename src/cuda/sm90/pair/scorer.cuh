// SPDX-License-Identifier: Apache-2.0
// Tiles of tokens in, this block's share of their scores out to the weighers of all blocks: the
// work of one warpgroup. Heads are the rows of products, so that a head's scores lie in the four
// lanes of a quad.
#pragma once

#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/pair/shared.cuh"

namespace steady::cuda::sm90::pair {

template <class S>
class Scorer {
 public:
  __device__ Scorer(const Call& call, Shared<S>& shared)
      : call_(call),
        rank_(ptx::cluster_rank()),
        shared_(shared),
        heads_(heads_here(call)),
        tile_(call) {}

  /// All tiles of a part that has some.
  __device__ void part(const PartRange& range) {
    tile_.start(range);
    ptx::wait_for_earlier_grids();
    const bool has_heads = S::first_head(warp(), 0) < heads_;
    if (S::kQueryBuffers == 2) load_queries(tile_.row(), 0);
    for (; tile_.valid(); tile_.advance()) {
      if (tile_.first_of_row_here()) [[unlikely]]
        change_queries();
#pragma unroll 1
      for (;; tile_.advance_in_unit()) {
        tokens_.wait_full(shared_.tokens_full);
        Sums sums[kQuarters];
        multiply(sums);
        hand_over(&shared_.tokens_empty[tokens_.index]);
        tokens_.advance();
        if (has_heads) send(sums);
        scores_.advance();
        if (tile_.last_of_unit()) break;
      }
    }
    if (!has_heads) return;
    // Nothing may be on its way here when the block is gone.
    for (uint32_t i = 0; i < S::kScoreBuffers; ++i, scores_.advance())
      scores_.wait_empty(shared_.scores_empty[warp()]);
  }

 private:
  /// Products cut off what is small beside the sum so far: quarters of a vector are summed apart.
  static constexpr int kQuarterBlocks = kBlocks / 4, kQuarters = S::kOwnBlocks / kQuarterBlocks;
  static_assert(kQuarters == 2);

  /// Of products, over a quarter of a vector.
  struct Sums {
    float at[kTokens / 2];
  };

  __device__ static int thread() { return static_cast<int>(threadIdx.x) % kGroupThreads; }
  __device__ static int warp() { return thread() / 32; }
  __device__ static void sync() { ptx::sync(NamedBarriers::kScorer, kGroupThreads); }

  /// Waits for the queries of the tile's row, and begins to load the next one's.
  __device__ void change_queries() {
    if (S::kQueryBuffers == 1) {
      sync();  // nobody needs the last row's
      load_queries(tile_.row(), 0);
    }
    queries_ = (queries_ + 1) % S::kQueryBuffers;
    ptx::wait_copies();
    ptx::fence_shared_writes();
    sync();  // all have theirs there, and nobody needs the last row's
    if (S::kQueryBuffers == 2 && tile_.goes_on()) load_queries(tile_.row() + 1, queries_ ^ 1);
  }

  /// Begins to load this block's share of a row's queries.
  __device__ void load_queries(int row, int buffer) {
    constexpr int kChunks = S::kOwnDims / kChunkDims, kStep = kGroupThreads / kChunks;
    const Layer& layer = call_.layer;
    const int chunk = thread() % kChunks, first = thread() / kChunks;
    const uint16_t* q = layer.q +
                        row_offset(layer.q_strides, call_.queries, row, first_head(call_) + first) +
                        rank_ * S::kOwnDims + chunk * kChunkDims;
    const bool aligned = reinterpret_cast<uintptr_t>(q) % sizeof(Chunk) == 0 &&
                         layer.q_strides.head % kChunkDims == 0;
    Block& block = shared_.q[buffer][chunk / kBlockChunks];
    const auto place = [&](int head) { return block.at(S::row_of(head), chunk % kBlockChunks); };
    if (!aligned) [[unlikely]] {
#pragma unroll 1
      for (int head = first; head < heads_; head += kStep, q += kStep * layer.q_strides.head)
        *place(head) = read_chunk(q);
      return;
    }
    // The first eight heads; the others' lines lie a whole number of eights further on.
    constexpr int kEight = 8 / kStep;
    Chunk* places[kEight];
#pragma unroll
    for (int i = 0; i < kEight; ++i) places[i] = place(first + kStep * i);
#pragma unroll
    for (int i = 0; i < S::kHeads / kStep; ++i, q += kStep * layer.q_strides.head) {
      const int head = first + kStep * i, lines = S::row_of(i / kEight * 8);
      if (head < heads_) ptx::copy_async_16(places[i % kEight] + lines * kBlockChunks, q);
    }
  }

  /// sums = q · tokens, over each quarter of the values that this block shares.
  __device__ void multiply(Sums (&sums)[kQuarters]) {
    const auto q = ptx::uniform(ptx::describe_operand(shared_.q[queries_]));
    const auto tokens = ptx::uniform(ptx::describe_operand(shared_.tokens[tokens_.index]));
    ptx::begin_products();
#pragma unroll
    for (int d = 0; d < S::kOwnDims; d += 16) {
      constexpr int kQuarterDims = kQuarterBlocks * kBlockDims;
      const uint32_t bytes = d / kBlockDims * sizeof(Block) + d % kBlockDims * sizeof(uint16_t);
      ptx::multiply_add<kTokens>(sums[d / kQuarterDims].at, ptx::advance(q, bytes),
                                 ptx::advance(tokens, bytes), d % kQuarterDims > 0);
    }
    ptx::commit_products();
    ptx::wait_products<0>();
    for (auto& quarter : sums) ptx::pin(quarter.at);
  }

  /// Sends this block's share of the scores to all blocks, itself among them.
  __device__ void send(const Sums (&sums)[kQuarters]) {
    scores_.wait_empty(shared_.scores_empty[warp()]);
    ptx::Remote to[S::kCluster], full[S::kCluster];
#pragma unroll
    for (int apart = 0; apart < S::kCluster; ++apart) {
      to[apart] =
          ptx::in_block(&shared_.scores[scores_.index][apart][0][0][thread()], rank_ ^ apart);
      full[apart] = ptx::in_block(&shared_.scores_full[warp()][scores_.index], rank_ ^ apart);
    }
#pragma unroll
    for (int part = 0; part < S::kHalves * InQuad::kScores / 4; ++part) {
      const int half = part / (InQuad::kScores / 4),
                first = 8 * (part % (InQuad::kScores / 4)) + 2 * half;
      const auto score = [&](int at) { return sums[0].at[at] + sums[1].at[at]; };
      const float4 scores = {score(first), score(first + 1), score(first + 4), score(first + 5)};
#pragma unroll
      for (int apart = 0; apart < S::kCluster; ++apart) {
        ptx::store_async(ptx::advance(to[apart], part * kGroupThreads * sizeof(scores)), scores,
                         full[apart]);
      }
    }
  }

  const Call& call_;
  const int rank_;
  Shared<S>& shared_;
  const int heads_;
  TileCursor tile_;
  Ring<S::kTokenBuffers> tokens_;
  Ring<S::kScoreBuffers> scores_;
  int queries_ = S::kQueryBuffers - 1;  // which buffer is used
};

}  // namespace steady::cuda::sm90::pair
