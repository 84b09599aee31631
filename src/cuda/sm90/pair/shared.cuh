// SPDX-License-Identifier: Apache-2.0
// What the roles of a block share: queries, buffers of tokens, of scores and of weights, and the
// barriers that hand them over.
#pragma once

#include "cuda/sm90/cluster.cuh"
#include "cuda/sm90/sums.cuh"
#include "cuda/sm90/weights.cuh"

namespace steady::cuda::sm90::pair {

inline constexpr int kProducerWarps = 2 * kWarps;
/// Of a tile, brought by one warp.
inline constexpr int kWarpTokens = kTokens / kProducerWarps;

/// How a row is shared: both blocks of a pair have half of each vector's values, and do all tokens
/// for the same heads, `kHeads` at most.
template <int kHeads_>
struct Share : Rows<kHeads_> {
  static constexpr int kHeads = kHeads_, kCluster = 2;
  static constexpr int kOwnBlocks = kBlocks / kCluster;
  static constexpr int kOwnDims = kOwnBlocks * kBlockDims;
  // Tokens are worth more room than a second buffer of queries, which only a row's beginning needs.
  static constexpr int kQueryBuffers = kHeads == 64 ? 1 : 2;
  static constexpr uint32_t kTokenBuffers = 4;
  static constexpr uint32_t kBuffers = 2;  // of scores, of weights and of what units come to
  /// Whether the next tile's products are under way while the other block's scores come and become
  /// weights. With many heads it takes longer.
  static constexpr bool kOverlaps = kHeads == 32;

  /// Of a scorer's warps those that make weights: of half of the heads, in each block.
  static constexpr int kMakerWarps = kWarps * Share::kHalves / 2;
  /// The block that makes the weights of the heads in half `half` of warp `warp`'s rows, and
  /// whether there are any.
  __device__ static int maker(int warp, int half) { return Share::kHalves == 1 ? warp / 2 : half; }
  __device__ static bool has_heads(int warp, int half, int heads) {
    return Share::first_head(warp, half) < heads;
  }
};

template <class S>
struct Shared {
  Block q[S::kQueryBuffers][S::kOwnBlocks];  // of a row and, if there is room, the next one
  Block tokens[S::kTokenBuffers][S::kOwnBlocks];
  Block weights[S::kBuffers];  // heads, as rows of products, by tokens, rounded
  /// The other block's share of the scores of those heads whose weights are made here, as its
  /// scorer's lanes have them.
  float4 scores[S::kBuffers][S::kMakerWarps][InQuad::kScores / 4][32];
  alignas(1024) Ones ones;
  /// By rows of products: what the sums so far are worth; what becomes of them at a unit's end.
  float old_weights[S::kBuffers][kMostHeads];
  alignas(16) HeadEnd unit_ends[S::kBuffers][kMostHeads];
  /// Of each producer warp: slots of the batch to be looked up next, scales of the tile in
  /// registers.
  int32_t slots[kProducerWarps][32];
  uint32_t scales[kProducerWarps][kWarpTokens];
  SoftmaxState row_so_far[S::kHeads];  // the scorer's own
  uint64_t named[S::kTokenBuffers];    // a bit for each token that a slot names
  // From producers to scorer and weigher and back.
  uint64_t tokens_full[S::kTokenBuffers], tokens_empty[S::kTokenBuffers];
  // From each warp of the other block's scorer to the one here that has the same rows. Nothing goes
  // back: who sends scores knows that its own weigher is done with the tile two before, so with the
  // weights that were made here of the scores that lay there.
  uint64_t scores_full[S::kMakerWarps][S::kBuffers];
  // From both blocks' scorers to this weigher, and back to the own one: who sends scores has room
  // for what comes of them.
  uint64_t weights_full[S::kBuffers], weights_empty[S::kBuffers], unit_end_full[S::kBuffers];
};

/// Barriers that warpgroups have among themselves; 0 is the block's.
struct NamedBarriers {
  static constexpr int kScorer = 1;
};

}  // namespace steady::cuda::sm90::pair
