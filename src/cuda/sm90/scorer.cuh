// SPDX-License-Identifier: Apache-2.0
// Queries and the tiles that this block scores in, their weights out to the weighers of all blocks:
// the work of one warpgroup. Heads are the rows of products, so that a head's scores lie in the
// four lanes of a quad.
//
// A tile's weights are relative to a whole number near its own largest score. So they follow from
// the tile alone, whoever scores it, and a weigher brings tiles together by powers of two.
#pragma once

#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/mma.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/shared.cuh"

namespace steady::cuda::sm90 {

template <class S>
class Scorer {
 public:
  __device__ Scorer(const LayerCall& call, int rank, Shared<S>& shared)
      : call_(call), rank_(rank), shared_(shared), heads_(heads_here(call)) {}

  /// All tiles of this part that this block scores. Row `first_row` is the first one.
  __device__ void part(int first_row) {
    const bool has_heads = S::first_head(warp(), 0) < heads_;
    int row = first_row, row_of_queries = -1;
    for (;;) {
      if (row != row_of_queries) [[unlikely]]
        load_queries(row);
      row_of_queries = row;
      tile_.wait_full(shared_.tiles_full);
      const Tile& tile = shared_.tiles[tile_.index];
      if (!tile.there) return;
      const bool own = tile.turn == rank_, ends_round = tile.turn + 1 == tile.round_tiles;
      row = tile.row;
      if (own && row != row_of_queries) [[unlikely]]
        continue;
      const int pieces = round_pieces<S>(rank_, tile.round_tiles);
      const uint64_t named = *reinterpret_cast<const uint64_t*>(tile.named);
      hand_over(&shared_.tiles_empty[tile_.index]);
      tile_.advance();
      if (own) {
        Sums sums[kChains];
        multiply(sums);
        if (has_heads) send(sums, named);
      }
      row = row_of_queries;
      if (ends_round) tokens_.advance(pieces);
    }
  }

 private:
  /// Products cut off what is small beside the sum so far: halves of a vector are summed apart.
  static constexpr int kChains = 2, kChainDims = kHeadDim / kChains;
  static constexpr int kChainPieces = kChainDims / S::kPieceDims;
  static constexpr float kLog2e = 1.44269504088896340736f;

  /// Of products, over half of a vector.
  struct Sums {
    float at[kTokens / 2];
  };

  __device__ static int thread() { return static_cast<int>(threadIdx.x) % kGroupThreads; }
  __device__ static int warp() { return thread() / 32; }
  __device__ static int lane() { return thread() % 32; }
  __device__ static void sync() { ptx::sync(NamedBarriers::kScorer, kGroupThreads); }

  /// Loads the queries of a row, in the order in which producers leave a token's values.
  __device__ void load_queries(int row) {
    constexpr int kChunks = kHeadDim / kChunkDims, kStep = kGroupThreads / kChunks;
    const Layer& layer = call_.layer;
    const int chunk = thread() % kChunks, first = thread() / kChunks;
    sync();  // nobody needs the last row's
    Block& block = shared_.q[chunk / kBlockChunks];
    const auto place = [&](int head) { return block.at(S::row_of(head), chunk % kBlockChunks); };
    const uint16_t* q = layer.q +
                        row_offset(layer.q_strides, call_.queries, row, first_head(call_) + first) +
                        chunk * kChunkDims;
#pragma unroll 4
    for (int head = first; head < heads_; head += kStep, q += kStep * layer.q_strides.head) {
      if (reinterpret_cast<uintptr_t>(q) % sizeof(Chunk) == 0) [[likely]] {
        ptx::copy_async_16(place(head), q);
      } else {
        *place(head) = read_chunk(q);
      }
    }
    ptx::wait_copies();
    if (chunk / kBlockChunks < kBlocks - 1) {
#pragma unroll 4
      for (int head = first; head < heads_; head += kStep) *place(head) = interleave(*place(head));
    }
    ptx::fence_shared_writes();
    sync();  // all have theirs there
  }

  /// The scores of the tile's tokens, in two halves.
  __device__ void multiply(Sums (&sums)[kChains]) {
    const auto q = ptx::uniform(ptx::describe_operand(shared_.q));
    uint64_t* last = nullptr;
    auto at = tokens_;
    for (auto& chain : sums) ptx::pin(chain.at);
#pragma unroll
    for (int piece = 0; piece < S::kTilePieces; ++piece) {
      at.wait_full(shared_.tokens_full);
      const auto tokens = ptx::uniform(ptx::describe_operand(shared_.tokens[at.index]));
      ptx::begin_products();
#pragma unroll
      for (int d = 0; d < S::kPieceDims; d += 16) {
        const uint32_t bytes = d / kBlockDims * sizeof(Block) + d % kBlockDims * sizeof(uint16_t);
        ptx::multiply_add(sums[piece / kChainPieces].at,
                          ptx::advance(q, piece * S::kPieceBlocks * sizeof(Block) + bytes),
                          ptx::advance(tokens, bytes), piece % kChainPieces > 0 || d > 0);
      }
      ptx::commit_products();
      if (last != nullptr) {
        ptx::wait_products<1>();
        hand_over(last);
      }
      // Who weighs a piece as well hands it over when that is done.
      last = piece / S::kOwnPieces == rank_ ? nullptr : &shared_.tokens_empty[at.index];
      at.advance();
    }
    ptx::wait_products<0>();
    for (auto& chain : sums) ptx::pin(chain.at);
    if (last != nullptr) hand_over(last);
  }

  /// Turns scores into weights and sends them to the weighers of all blocks, this one's among them.
  __device__ void send(Sums (&sums)[kChains], uint64_t named) {
    float(&scores)[kTokens / 2] = sums[0].at;
    // A scale beyond float's range in one step is applied in two.
    const float to_base_2 = call_.softmax_scale * kLog2e;
    const bool at_once = fabsf(to_base_2) < INFINITY;
    const float factor = at_once ? to_base_2 : call_.softmax_scale;
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) scores[i] = (scores[i] + sums[1].at[i]) * factor;
    if (!at_once) [[unlikely]] {
#pragma unroll
      for (float& score : scores) score *= kLog2e;
    }
    if (named != ~uint64_t{0}) [[unlikely]]
      hide_unnamed(named, scores);
    WarpWeights<S>& to = shared_.weights[rank_][warp()];
    TileSums of_halves[S::kHalves];
    uint32_t pairs[S::kHalves][kTokens / 8];
#pragma unroll
    for (int half = 0; half < S::kHalves; ++half)
      of_halves[half] = make_weights(scores, half, named, pairs[half]);
    ptx::wait(&shared_.weights_empty[warp()], weights_parity_ ^ 1);
    weights_parity_ ^= 1;
#pragma unroll
    for (int half = 0; half < S::kHalves; ++half) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        to.pairs[2 * half + i][lane()] = {pairs[half][4 * i], pairs[half][4 * i + 1],
                                          pairs[half][4 * i + 2], pairs[half][4 * i + 3]};
      }
      if (lane() % 4 == 0) to.sums[8 * half + lane() / 4] = of_halves[half];
    }
    ptx::fence_shared_writes();
    __syncwarp();
    if (lane() < S::kCluster - 1) {
      const int other = (rank_ + 1 + lane()) % S::kCluster;
      ptx::copy_bulk(ptx::in_block(&to, other), &to, sizeof to,
                     ptx::in_block(&shared_.weights_full[rank_][warp()], other));
    }
    ptx::arrive(NamedBarriers::kWeights + warp(), 64);
  }

  /// Scores of a lane's two rows lie side by side: of token 8 j + 2 (lane % 4) + e, in the row of
  /// `half`, at 4 j + 2 half + e.
  __device__ static void hide_unnamed(uint64_t named, float (&scores)[kTokens / 2]) {
    const uint64_t own = named >> (2 * (lane() % 4));
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) {
      if ((own >> (8 * (i / 4) + i % 2) & 1) == 0) scores[i] = -INFINITY;
    }
  }

  /// The weights of one row, rounded, in pairs.
  __device__ static TileSums make_weights(const float (&scores)[kTokens / 2], int half,
                                          uint64_t named, uint32_t (&pairs)[kTokens / 8]) {
    float most = kLowest;
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j)
      most = fmaxf(most, fmaxf(scores[4 * j + 2 * half], scores[4 * j + 2 * half + 1]));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
    // Far from zero every float is a whole number.
    const float reference = ceilf(most);
    float exact = 0.0f, rounded = 0.0f;
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
      const float a = ptx::exp2_approximate(scores[4 * j + 2 * half] - reference);
      const float b = ptx::exp2_approximate(scores[4 * j + 2 * half + 1] - reference);
      pairs[j] = bf16x2(a, b);
      exact += a + b;
      rounded += __uint_as_float(pairs[j] << 16) + __uint_as_float(pairs[j] & 0xffff0000u);
    }
    return {reference, of_quad(exact), of_quad(rounded), named != 0 ? 1.0f : 0.0f};
  }

  __device__ static float of_quad(float sum) {
    sum += __shfl_xor_sync(~0u, sum, 1);
    return sum + __shfl_xor_sync(~0u, sum, 2);
  }

  const LayerCall& call_;
  const int rank_;
  Shared<S>& shared_;
  const int heads_;
  Ring<kTiles> tile_;
  Ring<S::kBuffers> tokens_;
  uint32_t weights_parity_ = 0;
};

}  // namespace steady::cuda::sm90
