// SPDX-License-Identifier: Apache-2.0
// What the roles of a block share: queries, buffers of tokens and of scores, and the barriers that
// hand them over.
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
  static constexpr uint32_t kTokenBuffers = 4, kScoreBuffers = 2;
};

/// The same to the barrier of every block of the cluster.
template <class S>
__device__ inline void hand_over_to_cluster(uint64_t* barrier) {
  __syncwarp();
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (lane < S::kCluster) ptx::arrive(ptx::in_block(barrier, lane));
}

template <class S>
struct Shared {
  Block q[S::kQueryBuffers][S::kOwnBlocks];  // of a row and, if there is room, the next one
  Block tokens[S::kTokenBuffers][S::kOwnBlocks];
  /// All blocks' shares of a tile's scores, by the difference in rank, as the lanes of a scorer and
  /// of a weigher have them.
  float4 scores[S::kScoreBuffers][S::kCluster][S::kHalves][InQuad::kScores / 4][kGroupThreads];
  alignas(1024) Ones ones;
  /// Of each producer warp: slots of the batch to be looked up next, scales of the tile in
  /// registers.
  int32_t slots[kProducerWarps][32];
  uint32_t scales[kProducerWarps][kWarpTokens];
  SoftmaxState row_so_far[S::kHeads];  // the weigher's own
  uint64_t named[S::kTokenBuffers];    // a bit for each token that a slot names
  // From producers to scorer and weigher and back.
  uint64_t tokens_full[S::kTokenBuffers], tokens_empty[S::kTokenBuffers];
  // From each warp of the cluster's scorers to those of the weighers with its heads, and back.
  uint64_t scores_full[kWarps][S::kScoreBuffers], scores_empty[kWarps][S::kScoreBuffers];
};

/// Barriers that warpgroups have among themselves; 0 is the block's.
struct NamedBarriers {
  static constexpr int kScorer = 1;
};

}  // namespace steady::cuda::sm90::pair
