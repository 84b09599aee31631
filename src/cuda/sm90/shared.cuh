// SPDX-License-Identifier: Apache-2.0
// What the roles of a block share: queries, buffers of tokens and of weights, and the barriers that
// hand them over.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "core/work.hpp"
#include "cuda/dequantise.cuh"
#include "cuda/divisor.hpp"
#include "cuda/ptx/cluster.cuh"
#include "cuda/row_state.cuh"
#include "cuda/sm90/attend.hpp"

namespace steady::cuda::sm90 {

inline constexpr int kTokens = 64;  // of a tile: the columns of scores
/// Vectors lie in blocks of 64 values, so that a line of a block is 128 bytes.
inline constexpr int kBlockDims = 64, kBlocks = kHeadDim / kBlockDims;
inline constexpr int kGroupThreads = 128;          // a warpgroup
inline constexpr int kWarps = kGroupThreads / 32;  // of a warpgroup
/// Warpgroups: one scores, one weighs, two bring tokens.
inline constexpr int kProducerWarps = 2 * kWarps;
inline constexpr int kThreads = 4 * kGroupThreads;
/// Of each tile, that a producer's warp brings.
inline constexpr int kWarpTokens = kTokens / kProducerWarps;
/// Bytes of shared memory for all that is large; a little less than a block may have.
inline constexpr size_t kRoom = 219 << 10;
/// Tiles that producers may have read slots of before the other roles are over with them.
inline constexpr uint32_t kTiles = 32;

/// Pieces that may be listed and not yet fetched.
inline constexpr uint32_t kListed = 32;

/// Where a token's bytes are.
struct Place {
  const uint8_t *data, *scales;
};

/// 16 bytes of bf16.
using Chunk = uint4;
inline constexpr int kChunkDims = 8, kBlockChunks = kBlockDims / kChunkDims;

/// 64 lines of eight chunks, swizzled as products want them.
struct alignas(1024) Block {
  Chunk lines[64][kBlockChunks];

  __device__ Chunk* at(int line, int chunk) { return &lines[line][chunk ^ line % kBlockChunks]; }
};

/// Of slots into pages.
struct Divisors {
  Divisor of_scope[kScopes];
};

/// How a row is done: `kCluster` blocks of a cluster score its tiles in turn, and each of them
/// weighs an equal share of all tokens' values, for the same heads, `kHeads` at most.
template <int kHeads_, int kCluster_>
struct Share {
  static constexpr int kHeads = kHeads_, kCluster = kCluster_;
  static constexpr int kOwnBlocks = kBlocks / kCluster;
  static constexpr int kOwnDims = kOwnBlocks * kBlockDims;
  /// Tokens come in pieces: all tokens of a tile, some blocks of their values. Of tiles that a
  /// block scores it needs all, of the others its own.
  static constexpr int kPieceBlocks = kOwnBlocks < 2 ? kOwnBlocks : 2;
  static constexpr int kPieceDims = kPieceBlocks * kBlockDims;
  static constexpr int kOwnPieces = kOwnBlocks / kPieceBlocks, kTilePieces = kBlocks / kPieceBlocks;
  /// Tiles whose tokens producers may have looked up and not yet brought.
  static constexpr uint32_t kPlaces = kCluster == 8 ? 16 : 8;
  static_assert(kPlaces >= 2 * kCluster, "two rounds, so that one is found while one is brought");
  /// Pieces whose bytes are on their way.
  static constexpr uint32_t kAhead = kPieceBlocks == 1 ? 3 : 2;
  /// Of a warp's sixteen rows of a product, a lane has one in each half. Few heads fill one half,
  /// so that all warps have some.
  static constexpr int kHalves = kHeads / 32;
  static_assert(kHeads == 32 || (kHeads == 64 && kCluster < 8));
  /// What one warp's heads have in a tile: pairs of weights, and a float4 for each head.
  static constexpr int kWarpHeads = 8 * kHalves;
  static constexpr int kWeightBytes = kHalves * 1024 + kWarpHeads * 16;
  /// Buffers of pieces: as many as fit beside queries and weights.
  static constexpr uint32_t kBuffers =
      (kRoom - kBlocks * sizeof(Block) - kCluster * kWarps * kWeightBytes -
       kProducerWarps * (kPlaces * kWarpTokens * sizeof(Place) +
                         kAhead * (kPieceBlocks + 1) * 32 * sizeof(Chunk))) /
      (kPieceBlocks * sizeof(Block));

  /// The first head in half `half` of warp `warp`'s rows, and the row of a head.
  __device__ static int first_head(int warp, int half) {
    return kHalves == 1 ? 8 * warp : 16 * warp + 8 * half;
  }
  __device__ static int row_of(int head) {
    return kHalves == 1 ? 16 * (head / 8) + head % 8 : head;
  }
};

/// Goes around buffers that barriers guard.
template <uint32_t kCount>
struct Ring {
  uint32_t index = 0, parity = 0;
  __device__ void advance(uint32_t by = 1) {
    for (index += by; index >= kCount; index -= kCount) parity ^= 1;
  }
  /// Waits until the buffer has been filled in this round.
  __device__ void wait_full(uint64_t (&full)[kCount]) const { ptx::wait(&full[index], parity); }
  /// Waits until what the round before put there is no longer needed.
  __device__ void wait_empty(uint64_t (&empty)[kCount]) const {
    ptx::wait(&empty[index], parity ^ 1);
  }
};

/// Below any logarithm to base 2 of a score: the reference where there is none.
inline constexpr float kLowest = -3e38f;

/// All of this warp is done with what the barrier guards.
__device__ inline void hand_over(uint64_t* barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) ptx::arrive(barrier);
}

/// What is known of a tile and a head beside its weights.
struct TileSums {
  float reference;       ///< weights are 2^(score as a logarithm to base 2 - this); a whole number
  float exact, rounded;  ///< what the weights add up to, before and after rounding
  float named;           ///< not zero if a slot names any token of the tile
};

/// A tile's weights for one warp's heads, as the lanes of a scorer have them and those of weighers
/// want them.
template <class S>
struct WarpWeights {
  uint4 pairs[2 * S::kHalves][32];
  TileSums sums[S::kWarpHeads];
};

/// Where what a unit comes to belongs.
struct UnitPlace {
  bool split;     // among the slots, because several parts have units of the row
  bool joins;     // otherwise: is added to the units before it
  bool finishes;  // and completes the row's answer
  int partial;    // that keeps what is left: a slot, or the part's own
};

/// What the other roles need to know of a tile; producers find it out.
///
/// A unit's tiles come in rounds of as many as the cluster has blocks, the last one of fewer. In
/// each round every block scores one, whose pieces come first.
struct Tile {
  bool there;  // otherwise the part is over
  bool first_of_unit, last_of_unit;
  uint8_t turn, round_tiles;  // block `turn` scores it, as the one of so many
  int row;
  UnitPlace place;
  alignas(uint64_t) uint8_t named[kProducerWarps];  // a bit for each token that a slot names
};

/// The pieces that a block gets in a round of so many tiles.
template <class S>
__device__ inline int round_pieces(int rank, int tiles) {
  return rank < tiles ? S::kTilePieces + (tiles - 1) * S::kOwnPieces : tiles * S::kOwnPieces;
}
/// The first of those that have the values of tile `turn` that this block weighs.
template <class S>
__device__ inline int pieces_to_weigh(int rank, int tiles, int turn) {
  if (rank >= tiles) return turn * S::kOwnPieces;
  if (turn == rank) return rank * S::kOwnPieces;
  return S::kTilePieces + (turn - (turn > rank ? 1 : 0)) * S::kOwnPieces;
}

/// A piece that is to be brought.
struct alignas(8) Piece {
  bool slow, ends;  // slow: some of a warp's tokens are; ends: with the last block of all
  uint8_t place;    // of its tile
  uint32_t number;  // of the tile's
};

/// A bit for each of a producer warp's tokens of a tile: that can't be read in the plain way, and
/// of those, that is bf16.
struct SlowTokens {
  uint8_t slow, bf16;
};

/// What a producer's warp keeps for itself.
template <class S>
struct ProducerWarp {
  Chunk bytes[S::kAhead][S::kPieceBlocks + 1][32];  // the last block of all is bf16: twice as long
  uint32_t scales[S::kAhead][32];
  Place places[S::kPlaces][kWarpTokens];
  Piece pieces[kListed];
  int32_t slots[2][32];
  SlowTokens slow[S::kPlaces];
};

template <class S>
struct Shared {
  static_assert(sizeof(WarpWeights<S>) == S::kWeightBytes);
  Block q[kBlocks];
  Block tokens[S::kBuffers][S::kPieceBlocks];
  WarpWeights<S> weights[S::kCluster][kWarps];  // by the block that made them
  SoftmaxState row_so_far[S::kHeads];           // the weigher's own
  Tile tiles[kTiles];
  ProducerWarp<S> producers[kProducerWarps];
  // From producers to scorer and weigher and back.
  uint64_t tiles_full[kTiles], tiles_empty[kTiles];
  uint64_t tokens_full[S::kBuffers], tokens_empty[S::kBuffers];
  // From each warp of the other blocks' scorers to its like of the weighers, and from those of all
  // blocks back to the scorer.
  uint64_t weights_full[S::kCluster][kWarps], weights_empty[kWarps];
};

/// Barriers that warpgroups have among themselves; 0 is the block's.
struct NamedBarriers {
  static constexpr int kScorer = 1;
  static constexpr int kWeights = 2;  // and the next ones: of each scoring warp and its weigher
};

/// The part of this block's cluster.
template <class S>
__device__ inline int own_part() {
  return ptx::block_number() / S::kCluster;
}

/// The heads of this block.
__device__ inline int first_head(const LayerCall& call) {
  return static_cast<int>(blockIdx.y) * group_heads(call.heads, static_cast<int>(gridDim.y));
}
__device__ inline int heads_here(const LayerCall& call) {
  return min(group_heads(call.heads, static_cast<int>(gridDim.y)), call.heads - first_head(call));
}

/// Two sums, rounded; the first one in the lower half.
__device__ inline uint32_t bf16x2(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

}  // namespace steady::cuda::sm90
