// SPDX-License-Identifier: Apache-2.0
// What the roles of a block share: queries, buffers of tokens, weights, and the barriers that hand
// them over.
#pragma once

#include "core/dealing.hpp"
#include "cuda/sm90/sums.cuh"
#include "cuda/sm90/weights.cuh"

namespace steady::cuda::sm90::block {

/// Warpgroups: one scores, two weigh half of the values each, one brings tokens.
inline constexpr int kWeighers = 2;
static_assert(kThreads == (2 + kWeighers) * kGroupThreads);
inline constexpr uint32_t kBuffers = 2;  // of tokens
inline constexpr uint32_t kUnits = 16;

/// The lane that asks, in its warpgroup, and its heads.
template <int kHeads>
struct OwnRows : Rows<kHeads> {
  __device__ static int thread() { return ptx::thread_number() % kGroupThreads; }
  __device__ static int warp() { return thread() / 32; }
  __device__ static int lane() { return thread() % 32; }
  __device__ static int head(int half) {
    return Rows<kHeads>::first_head(warp(), half) + lane() / 4;
  }
  /// Of products.
  __device__ static int row(int half) { return 16 * warp() + 8 * half + lane() / 4; }
};

/// What scorer and weighers have to know of a unit.
struct Unit {
  int row, tiles;
  bool begins_row, ends_row, ends_part;  // of what this part has
  UnitPlace place;
};

/// Goes through the units of a part, row after row.
class UnitCursor {
 public:
  __device__ UnitCursor(const Call& call, const PartRange& range)
      : end_(range.end), row_(range.begin.row), unit_(range.begin.unit), first_unit_(unit_) {
    begin_row(call);
  }

  __device__ bool valid() const { return before({row_, unit_}, end_); }
  __device__ void advance(const Call& call) {
    ++number_;
    if (++unit_ < units_.count) return;
    ++row_;
    unit_ = first_unit_ = 0;
    if (valid()) begin_row(call);
  }

  /// Of the part's units.
  __device__ uint32_t number() const { return number_; }
  __device__ int row() const { return row_; }
  /// Of the row's tokens those in the window.
  __device__ int window() const { return plan_.tokens[0]; }
  /// Positions in the row.
  __device__ int begin() const { return unit_ * units_.tokens_each; }
  __device__ int end() const {
    return min((unit_ + 1) * units_.tokens_each, plan_.tokens[0] + plan_.tokens[1]);
  }
  __device__ int tiles() const { return tiles_between(begin(), end()); }

  __device__ Unit describe() const {
    const bool last_unit = unit_ + 1 == units_.count;
    const bool last_here = row_ == end_.row && unit_ + 1 == end_.unit;
    const bool last_row = row_ + 1 == end_.row && end_.unit == 0;
    return {row_,
            tiles(),
            unit_ == first_unit_,
            last_unit || last_here,
            last_here || (last_unit && last_row),
            place_of(plan_, units_.count, unit_)};
  }

 private:
  __device__ void begin_row(const Call& call) {
    plan_ = read_plan(&call.tables.plan.rows[row_]);
    units_ = cut_row(plan_.tokens[0] + plan_.tokens[1], call.limits);
  }

  WorkPosition end_;
  uint32_t number_ = 0;
  int row_, unit_, first_unit_;
  RowPlan plan_;
  Units units_;
};

/// A weigher's answers for eight heads on their way to the caller, so that lanes store what lies
/// together. Of eight lanes that load or store together no two have the same banks.
struct Answers {
  Chunk lines[8][kHeadDim / kWeighers / kChunkDims];

  __device__ Chunk* at(int line, int chunk) { return &lines[line][chunk ^ line]; }
};
static_assert(sizeof(Answers) <= kBlocks / kWeighers * sizeof(Octet::blocks[0]),
              "they take the place of a weigher's values of eight tokens");

/// Weights of a tile, 2^(score as a logarithm to base 2 - reference), rounded.
struct Weights {
  Block rounded;           // heads, as rows of products, by tokens
  float old[kMostHeads];   // what the sums so far are worth after references moved
  uint32_t moved[kWarps];  // whether one of a warp's heads has another reference than before
};

/// The vectors of its tokens.
using Tile = Octet[kTokens / Octet::kVectors];
static_assert(kMostHeads / 8 <= kTokens / Octet::kVectors, "answers of eight heads each");
/// Of a tile, in the order in which they are brought and weighed.
inline constexpr int kTilePieces = 2, kPieceTokens = kTokens / kTilePieces;

/// What a producer warp has before it is turned into bf16: of eight tokens of a piece, as lanes
/// have it; each lane reads and overwrites its own. Aligned to lines of shared memory: copies that
/// straddle them made a tile take up to a tenth longer.
struct Raw {
  static constexpr int kWarpTokens = kPieceTokens / kWarps;
  static_assert(kWarpTokens == Octet::kVectors);
  alignas(128) uint4 bytes[kBlocks + 1][32];
};

/// Where the tokens of a tile lie. After a part's last tile there are some that name nothing.
struct Found {
  static constexpr uint8_t kNamed = 1;  // a slot names the token
  static constexpr uint8_t kSlow = 2;   // it is not to be copied and stored as most are
  static constexpr uint8_t kSecondScope = 4;
  const uint8_t* data[kTokens];
  int32_t scales[kTokens];  // where their scales lie, in bytes from `data`
  uint8_t flags[kTokens];
};
/// How many tiles ahead of the one that is scored tokens are found.
inline constexpr uint32_t kFoundAhead = 4, kFounds = kFoundAhead + 1;
static_assert(kUnits >= kFoundAhead + 4,
              "while tile t is scored, t + 5 is read ahead and a weigher may look at t - 2");

struct Shared {
  Block q[kBlocks];
  Tile tokens[kBuffers];
  Weights weights;
  alignas(1024) Ones ones;
  HeadEnd unit_end[kMostHeads];
  Raw raw[kWarps];
  uint2 scales[kWarps][Raw::kWarpTokens];  // of the raw tokens
  Found found[kFounds];
  int32_t slots[kTokens];  // of the tile whose tokens will be found next
  /// In their order: those between the first that a weigher may still need and the last whose
  /// tokens have been looked for.
  Unit units[kUnits];
  UnitCursor ahead[kWarps];             // of each scorer warp
  int heads;                            // of this block, here because registers are scarce
  SoftmaxState row_so_far[kMostHeads];  // the scorer's own
  /// Whether a slot names a token: four bits for each. Aligned, or the compiler reads words of a
  /// neighbour with them, which racecheck reports.
  alignas(16) uint32_t named[kBuffers][kTokens / 8];
  // At each of these barriers all threads of a role arrive: racecheck doesn't see what a __syncwarp
  // orders before the arrival of one lane for its warp. From another block one lane does.
  // From scorer to producers; who scores a tile knows that those before have been brought.
  uint64_t found_full[kFounds];
  // From producers to scorer and weighers, and back from weighers, each piece for itself: who has
  // weights knows that the tile has been scored. Where two blocks share tokens, a piece is handed
  // back to the block that brings it, by both, and each uses the barriers of its own piece.
  uint64_t tokens_full[kBuffers], tokens_empty[kTilePieces][kBuffers];
  // From weighers to scorer; who weighs a row's last tile knows that its queries are not needed.
  uint64_t queries_full[1];
  // From scorer to weighers; only weights go back: who has them for a later tile has all.
  uint64_t weights_full[1], weights_empty[1], unit_end_full[1];
};

/// Barriers that warpgroups have among themselves; 0 is the block's.
struct NamedBarriers {
  static constexpr int kWeigher = 1;  // and the next one
};

}  // namespace steady::cuda::sm90::block
