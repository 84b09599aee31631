// SPDX-License-Identifier: Apache-2.0
// What the roles of a block share: queries, buffers of tokens, of scores and of weights, and the
// barriers that hand them over.
#pragma once

#include "cuda/sm90/cluster.cuh"
#include "cuda/sm90/tokens.cuh"
#include "cuda/sm90/weights.cuh"

namespace steady::cuda::sm90::four {

/// Four blocks have a quarter of each vector's values each, and do all tokens for the same heads.
inline constexpr int kCluster = 4, kOwnBlocks = kBlocks / kCluster;
inline constexpr int kOwnDims = kOwnBlocks * kBlockDims;

/// Of a cluster at most `kHeads_` heads, the columns of products.
template <int kHeads_>
struct Share {
  static constexpr int kHeads = kHeads_;
  /// Each block makes the weights of two of every eight heads, whose scores a lane of each quad
  /// has.
  static constexpr int kTwos = kHeads / 8;
  static_assert(kHeads % 8 == 0 && kTwos <= kWarps);
  static constexpr uint32_t kTokenBuffers = kHeads == 32 ? 5 : 6;
};

/// What a producer warp has of tiles that are not yet turned into bf16.
struct Raw {
  /// Where the tokens of some tiles lie.
  struct Found {
    static constexpr int kTiles = 32 / kWarpTokens;
    struct alignas(16) Place {
      const uint8_t *data = kNoToken, *scales = kNoToken + STEADY_FP8_DATA_BYTES;
    };
    /// A bit for each token: whether a slot names it, it is not to be copied as most are, it is of
    /// the second scope.
    struct Tile {
      uint8_t named, slow, scopes;
    };
    Place places[32];
    Tile tiles[kTiles];
  };
  static constexpr uint32_t kAhead = 4;  // tiles whose bytes are on their way
  /// Of a tile: each lane's own.
  struct Stage {
    uint4 bytes[kOwnBlocks + 1][32];
    uint32_t scales[32];
  };
  Stage stages[kAhead];
  Found found[2];
  int32_t slots[2][32];
};

/// What the blocks of a cluster send each other lies in as many buffers as tokens do, and each is
/// free when the tokens' buffer of the same number is: who scores a tile has its tokens, so this
/// block's weigher is done with the tile before that had the same buffers, and had the weights of
/// all blocks, which had all scores. Who has the scores of all blocks knows it of all weighers.
template <class S>
struct Shared {
  Lines<S::kHeads> q[2][kOwnBlocks];  // of a row and the next one
  Block tokens[S::kTokenBuffers][kOwnBlocks];
  Lines<S::kHeads> weights[S::kTokenBuffers];  // heads by tokens, rounded
  /// Of each block of the cluster, in the order of ranks: its share of the scores of this block's
  /// heads: of a lane's two tokens, eight apart, for two heads.
  float4 scores[S::kTokenBuffers][kCluster][S::kTwos][32];
  /// Weights on their way from each of the maker's warps: in one of two places, of up to two tiles,
  /// of two heads.
  Chunk staged[S::kTwos][2][2][2][kBlockChunks];
  float old_weights[S::kTokenBuffers][S::kHeads];              // what the sums so far are worth
  alignas(16) HeadEnd unit_ends[S::kTokenBuffers][S::kHeads];  // with the unit's last tile
  Raw raw[kProducerWarps];
  uint64_t named[S::kTokenBuffers];  // a bit for each token that a slot names
  // From producers to scorer, maker, which has to know what is named, and weigher, and back.
  uint64_t tokens_full[S::kTokenBuffers], tokens_empty[S::kTokenBuffers];
  // From the cluster's scorers to this block's maker of weights; from those to the weigher.
  uint64_t scores_full[S::kTokenBuffers], weights_full[S::kTokenBuffers];
};

/// Barriers that warpgroups have among themselves; 0 is the block's.
struct NamedBarriers {
  static constexpr int kScorer = 1, kWeigher = 2;
};

}  // namespace steady::cuda::sm90::four
