// SPDX-License-Identifier: Apache-2.0
// What the roles of a block share: queries, buffers of tokens as they lie in pages, of their
// values, of scores and of weights, and the barriers that hand them over.
#pragma once

#include <type_traits>

#include "cuda/sm90/cluster.cuh"
#include "cuda/sm90/tokens.cuh"
#include "cuda/sm90/weights.cuh"

namespace steady::cuda::sm90::columns {

/// Warpgroups that score, in turn, and warps that copy, of which two share a tile.
inline constexpr int kScorers = 2, kTileCopiers = 2, kCopierWarps = 2 * kWarps;
/// Buffers of tokens as they lie in pages. One is always filled by the same warps and scored by the
/// same warpgroup: who waits for a phase of its barriers has seen the one before.
inline constexpr uint32_t kRaws = kCopierWarps / kTileCopiers;
static_assert(kRaws % kScorers == 0);

/// How a row is shared: each block of a cluster weighs as many of each vector's values, and all do
/// all tokens for the same heads, `kHeads` at most, the columns of products.
template <int kCluster_, int kHeads_>
struct Share {
  static constexpr int kHeads = kHeads_, kCluster = kCluster_;
  static_assert(kCluster == 2 || kCluster == 4 || kCluster == 8);
  /// Halves or quarters of vectors, of which each block scores one. In clusters of eight two blocks
  /// are twins: they have the same quarter, score every other tile, and weigh half of it each.
  static constexpr int kShares = kCluster == 8 ? 4 : kCluster, kTwins = kCluster / kShares;
  static constexpr int kOwnBlocks = kBlocks / kShares, kOwnDims = kOwnBlocks * kBlockDims;
  static constexpr int kWeighedBlocks = kBlocks / kCluster,
                       kWeighedDims = kWeighedBlocks * kBlockDims;
  /// Of a vector. Products cut off what is small beside the sum so far: quarters are summed apart.
  static constexpr int kQuarters = 4 / kShares, kQuarterBlocks = kBlocks / 4;
  /// A lane of each quad has the scores of two of every eight heads. Each block makes the weights
  /// of one of them, of both, or of those of two lanes beside each other: of so many sets of heads.
  static constexpr int kSetHeads = kCluster == 8 ? 1 : 2, kSets = kHeads / kCluster / kSetHeads;
  static_assert(kHeads % 8 == 0 && kSets <= kWarps);
  /// Heads of each warp that makes weights, in clusters of two so many that each lane has something
  /// to send; warps that take turns with the same heads' tiles; and how many warps there are.
  static constexpr int kMakerHeads = kCluster >= 4 && kSetHeads * kSets <= kWarps ? 1 : 2,
                       kTurns = kCluster == 8 ? kWarps / kSets : 1,
                       kMakers = kSetHeads * kSets / kMakerHeads * kTurns;
  /// Buffers of values, of scores and of weights. Without twins there may be any number, because
  /// those who need them are done with one tile after the other: a scorer has waited for its tile
  /// before, so that all phases of earlier ones are over. As many as there is room for, but where
  /// fewer take less time; why is not known.
  static constexpr uint32_t kBuffers = kCluster == 2                 ? 3
                                       : kCluster == 8               ? 8
                                       : kHeads == 24 || kHeads == 8 ? 6
                                                                     : 5;
  static_assert(kBuffers >= kScorers);
  /// With twins, tiles of one buffer are always scored by the same warpgroup of the same twin, and
  /// weighed by the same of the warps that take turns.
  static_assert(kTwins == 1 || (kBuffers % (kScorers * kTwins) == 0 && kBuffers % kTurns == 0));
  static constexpr bool kFewBuffers = kBuffers < 5;
  /// Answers are staged apart, not in the place of the values that were weighed last, so that the
  /// buffer is free meanwhile.
  static constexpr bool kStagesApart = kFewBuffers;
  /// Tiles whose weights are made at a time, where no reference moves: each of them keeps a buffer.
  static constexpr int kMakerTiles = kFewBuffers || kTurns > 1 ? 1 : 2;
  /// Scores of a lane's two tokens, eight apart, for the heads of a set.
  using Scores = std::conditional_t<kSetHeads == 2, float4, float2>;
};

/// Which half or quarter of vectors this block scores, and which of the twins it is.
template <class S>
__device__ inline int share_rank() {
  return static_cast<int>(static_cast<uint32_t>(ptx::cluster_rank()) / S::kTwins);
}
template <class S>
__device__ inline int twin_rank() {
  return static_cast<int>(static_cast<uint32_t>(ptx::cluster_rank()) % S::kTwins);
}
/// Whether the tiles whose values have this buffer are scored here, not by the twin.
template <class S>
__device__ inline bool is_scored_here(uint32_t buffer) {
  return S::kTwins == 1 || static_cast<int>(buffer % S::kTwins) == twin_rank<S>();
}
/// The same place in the twin's memory.
__device__ inline ptx::Remote in_twin(const void* shared) {
  return ptx::in_block(shared, ptx::cluster_rank() ^ 1);
}

/// The block's share of a tile's vectors, as they lie in pages of FP8. Of tokens that are not to be
/// copied as most are it has zeros.
template <class S>
struct Raw {
  /// Of eight lines that are read together no two have the same banks. The last block of all is
  /// bf16 there, twice as long.
  static constexpr int kLineBytes = (S::kOwnBlocks + 1) * kBlockDims + sizeof(Chunk);
  alignas(16) uint8_t lines[kTokens][kLineBytes];
  uint32_t scales[kTokens];  // a byte for each block
  // A bit for each token: whether a slot names it, whether it is not to be copied as most are.
  uint64_t named, slow;
};

/// Where the tokens of a tile lie that two copier warps bring.
struct Found {
  struct alignas(16) Place {
    const uint8_t *data, *scales;
  };
  Place places[kTokens];
};

/// Values of blocks that are FP8 in pages of FP8 stand in products in another order, whatever a
/// token's format: of every sixteen the even ones first, as two bytes of a word become two values.
/// So do queries, and the rows of answers.
inline constexpr int kPermutedDims = 16;

/// Whether the block is bf16 in pages of FP8, too, and keeps its order: of those that this block
/// scores, of those that it weighs.
template <class S>
__device__ inline bool is_last_scored(int block) {
  return share_rank<S>() * S::kOwnBlocks + block + 1 == kBlocks;
}
template <class S>
__device__ inline bool is_last_weighed(int block) {
  return ptx::cluster_rank() * S::kWeighedBlocks + block + 1 == kBlocks;
}

/// Sixteen values into the order of products.
__device__ inline void permute(Chunk& first, Chunk& second) {
  const auto even = [](uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x5410); };
  const auto odd = [](uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x7632); };
  const Chunk a = first, b = second;
  first = {even(a.x, a.y), even(a.z, a.w), even(b.x, b.y), even(b.z, b.w)};
  second = {odd(a.x, a.y), odd(a.z, a.w), odd(b.x, b.y), odd(b.z, b.w)};
}

/// Answers on their way to the caller, so that threads store what lies together. Of lanes that load
/// or store together no two have the same banks.
template <class S>
struct Answers {
  /// At a time.
  static constexpr int kHeads = S::kStagesApart ? 8 : S::kHeads;
  alignas(16) uint16_t lines[kHeads][S::kWeighedDims];

  __device__ uint16_t* at(int head, int dim) { return &lines[head][dim ^ head / 2 % 4 * 16]; }
};

/// Values on their way to the twin: a place for each buffer whose tiles are scored here.
template <class S>
struct ForTwin {
  Block values[S::kBuffers / 2];
};

/// Where answers are not staged apart, or there is no twin.
struct Nothing {};

/// What warps that take turns with a head's tiles hand on: the unit's references first, because the
/// next tile's weights wait for them, later its sums and the row so far; and the barriers that tell
/// each warp that it has them.
template <class S>
struct Turns {
  using Weights = HeadWeights<S::kMakerHeads, InWarp>;
  uint64_t has_references[S::kMakers], has_sums[S::kMakers];
  typename Weights::References references[S::kSets][32];
  typename Weights::Sums sums[S::kSets][32];
  SoftmaxState row[S::kSets][32];
};

/// What the blocks of a cluster send each other of a tile lies in as many buffers as its values do,
/// and each is free when the values' buffer of the same number is: who scores a tile writes its
/// values, so this block's weigher, and its twin's, are done with the buffers of the tile before
/// that had the same, and had the weights of all blocks, which had all scores. Who has the scores
/// of all halves or quarters knows it of all weighers.
template <class S>
struct Shared {
  Lines<S::kHeads> q[2][S::kOwnBlocks];  // of a row and the next one
  Block values[S::kBuffers][S::kWeighedBlocks];
  Lines<S::kHeads> weights[S::kBuffers];  // heads by tokens, rounded
  /// Of each half or quarter of vectors, in their order: its share of the scores of this block's
  /// heads.
  typename S::Scores scores[S::kBuffers][S::kShares][S::kSets][32];
  /// Weights on their way from each of the maker's warps: in one of two places.
  Chunk staged[S::kMakers][2][S::kMakerTiles][S::kMakerHeads][kBlockChunks];
  float old_weights[S::kBuffers][S::kHeads];  // what the sums so far are worth
  /// In turn, by units. As many as buffers of tiles are enough: a unit has a tile at least, so who
  /// ends one has the scores of a tile that came when all weighers had read the end that lay here.
  alignas(16) HeadEnd unit_ends[S::kBuffers][S::kHeads];
  Raw<S> raw[kRaws];
  std::conditional_t<S::kStagesApart, Answers<S>, Nothing> answers;
  std::conditional_t<S::kTwins == 2, ForTwin<S>, Nothing> for_twin;
  std::conditional_t<(S::kTurns > 1), Turns<S>, Nothing> turns;
  Found found[kRaws];
  uint64_t named[S::kBuffers];  // a bit for each token that a slot names; comes with the scores
  // From copiers to a scorer, where what is not a copy's own arrival is a lane's for its warp, and
  // back, where all threads arrive: racecheck doesn't see what a __syncwarp orders before one
  // lane's.
  uint64_t raw_full[kRaws], raw_empty[kRaws];
  // From the cluster's makers of weights and a scorer, the own one or the twin's, to the weigher,
  // and back to that scorer. All threads of the own scorer and weigher arrive: that takes less
  // time, too, and racecheck, which doesn't see what a __syncwarp orders before one lane's arrival,
  // follows a buffer from one team to the other. At the twin's barrier a lane arrives for each
  // warp.
  uint64_t tile_full[S::kBuffers], values_empty[S::kBuffers];
  // From the cluster's scorers to this block's maker of weights; from those to the weigher.
  uint64_t scores_full[S::kBuffers], unit_end_full[S::kBuffers];
};

/// Barriers that warpgroups have among themselves; 0 is the block's.
struct NamedBarriers {
  static constexpr int kWeigher = 1, kScorers = 2, kScorer = 3;  // and the next one
};

}  // namespace steady::cuda::sm90::columns
