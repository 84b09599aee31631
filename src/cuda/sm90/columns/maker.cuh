// SPDX-License-Identifier: Apache-2.0
// All blocks' shares of the scores of this block's heads in, their weights and what each unit comes
// to out to the weighers of all blocks, lse out: the work of one warpgroup, of whose warps
// each has one or two heads or none; in clusters of eight all take turns with the same head.
#pragma once

#include "cuda/sm90/columns/shared.cuh"

namespace steady::cuda::sm90::columns {

template <class S>
class Maker {
 public:
  __device__ Maker(const Call& call, Shared<S>& shared)
      : call_(call),
        shared_(shared),
        head_(8 * (set() / S::kQuarters) +
              S::kSetHeads * (S::kQuarters * ptx::cluster_rank() + set() % S::kQuarters) +
              (kSetWarps == 2 ? warp() % 2 : 0)),
        tile_(call),
        head_weights_(call) {
    // Warps without heads have the places of others, which they do not use.
    const int line = head_ + chunk() / kBlockChunks;
#pragma unroll
    for (int i = 0; i < kLaneBlocks; ++i) {
      const int rank = lane() / kChunks + i * kCluster / kLaneBlocks;
      weights_[i] = ptx::in_block(shared.weights[0].at(line, chunk() % kBlockChunks), rank);
      old_weights_[i] = ptx::in_block(shared.old_weights[0] + head_, rank);
      tile_full_[i] = ptx::in_block(shared.tile_full, rank);
    }
  }

  /// All tiles of a part that has some.
  __device__ void part(const PartRange& range) {
    if (warp() >= S::kMakers) {
      ptx::wait_for_earlier_grids();
      return;
    }
    if (warp() == 0) {
      for (uint32_t i = 0; i < S::kBuffers; ++i) expect_scores(i);
    }
    tile_.start(range);
    ptx::wait_for_earlier_grids();
    // Here, not where it is used: it takes as long as a tile.
    const int own_head = head_ + min(lane() / 16, kHeads - 1);
    if (own_head < heads_here(call_)) sink_ = sink_of(call_, first_head(call_) + own_head);
    if constexpr (S::kTurns > 1) {
      tiles_in_turn();
    } else {
      tiles_alone();
    }
  }

 private:
  static constexpr int kHeads = S::kMakerHeads, kCluster = S::kCluster;
  /// Warps beside each other that have a set's heads.
  static constexpr int kSetWarps = S::kSetHeads / kHeads;
  /// Of their weights, and to how many blocks a lane sends one.
  static constexpr int kChunks = kHeads * kBlockChunks, kLaneBlocks = kCluster * kChunks / 32;

  /// Where several warps have the same heads: a tile for each of them at a time. They wait for each
  /// other only with what needs the unit so far.
  __device__ void tiles_in_turn() {
    Ring<S::kBuffers> buffer = Ring<S::kBuffers>::after(turn()), end;
    if (turn() + 1 == S::kTurns) {
      ptx::arrive(&shared_.turns.has_references[next_warp()]);
      ptx::arrive(&shared_.turns.has_sums[next_warp()]);
    }
    int next = turn();  // tile of the unit that is this warp's
    while (tile_.valid()) {
      const int tiles = tile_.tiles();
#pragma unroll 1
      for (; next < tiles; next += S::kTurns) {
        wait_for_scores(buffer);
        make_weights<1>({{buffer.index}}, next == 0);
        if (next + 1 == tiles) end_unit(end.index);
        give_sums();
        buffer.advance(S::kTurns);
      }
      next -= tiles;
      end.advance();
      tile_.advance(tiles);
    }
  }

  /// Two tiles at a time, where buffers are not few and no reference moves: a warp alone has little
  /// to do while it waits for its own results. A unit's first tile alone, because its reference
  /// moves, and because the weighers wait for it; its last one or two alone, so that what the unit
  /// comes to does not wait for a second tile's weights.
  __device__ void tiles_alone() {
    Ring<S::kBuffers> buffer, end;
    bool arrived = false;  // whether the next tile's scores are known to be there
    while (tile_.valid()) {
      head_weights_.begin_unit();
      const int tiles = tile_.tiles();
      int left = tiles;
#pragma unroll 1
      while (left > 0) {
        if (!arrived) wait_for_scores(buffer);
        arrived = false;
        if constexpr (S::kMakerTiles == 2) {
          if (left < tiles && left > 2) {
            auto next = buffer;
            next.advance();
            wait_for_scores(next);
            if (make_weights<2>({{buffer.index, next.index}}, false)) {
              left -= 2;
              next.advance();
              buffer = next;
              continue;
            }
            arrived = true;
          }
        }
        make_weights<1>({{buffer.index}}, left == tiles);
        --left;
        buffer.advance();
      }
      end_unit(end.index);
      end.advance();
      tile_.advance(tiles);
    }
  }

  __device__ static int warp() { return static_cast<int>(threadIdx.x) / 32 % kWarps; }
  /// The set of heads that this warp has, and which of its warps this is, in the order of tiles.
  __device__ static int set() { return warp() / kSetWarps % S::kSets; }
  __device__ static int turn() { return S::kTurns > 1 ? warp() / S::kSets : 0; }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ static int chunk() { return lane() % kChunks; }

  __device__ void expect_scores(uint32_t buffer) {
    if (warp() % (S::kMakers / S::kTurns) != 0 || lane() != 0) return;
    constexpr int kTile = sizeof(shared_.scores[0]) + sizeof(shared_.named[0]);
    ptx::arrive_and_expect(&shared_.scores_full[buffer], kTile);
  }
  __device__ void wait_for_scores(const Ring<S::kBuffers>& buffer) {
    buffer.wait_full(shared_.scores_full);
    expect_scores(buffer.index);  // of the next round
  }

  /// Of the same heads.
  __device__ static int next_warp() { return (warp() + S::kSets) % S::kMakers; }
  /// From the warp that had the tile before, to the one that has the next.
  __device__ void take_references(bool first) {
    parity_ ^= 1;
    ptx::wait(&shared_.turns.has_references[warp()], parity_);
    if (first) {
      head_weights_.begin_unit();
    } else {
      head_weights_.go_on_from(shared_.turns.references[set()][lane()]);
    }
  }
  __device__ void give_references() {
    shared_.turns.references[set()][lane()] = head_weights_.references();
    ptx::arrive(&shared_.turns.has_references[next_warp()]);
  }
  __device__ void take_sums(bool first) {
    ptx::wait(&shared_.turns.has_sums[warp()], parity_);
    if (!first) head_weights_.go_on_from(shared_.turns.sums[set()][lane()]);
  }
  __device__ void give_sums() {
    shared_.turns.sums[set()][lane()] = head_weights_.sums();
    ptx::arrive(&shared_.turns.has_sums[next_warp()]);
  }

  /// Of so many tiles: the numbers of their buffers.
  template <int kTiles>
  struct Buffers {
    uint32_t at[kTiles];
  };

  /// Weights 2^(score as a logarithm to base 2 - reference), rounded, to all blocks, and what the
  /// sums so far are worth after references moved. False, and nothing is done, if there are several
  /// tiles and a reference would move. A unit's `first` tile gives it its reference.
  template <int kTiles>
  __device__ bool make_weights(const Buffers<kTiles>& buffers, bool first) {
    float scores[kTiles][kHeads][InWarp::kScores], old_weights[kHeads], sums[kTiles][kHeads];
    uint32_t weights[kTiles][kHeads][InWarp::kScores / 2];
    uint64_t named[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      named[tile] = shared_.named[buffers.at[tile]];
      read(buffers.at[tile], scores[tile]);
    }
    if constexpr (S::kTurns > 1) take_references(first);
    if (head_weights_.any_scaled()) [[unlikely]] {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < kHeads; ++i) head_weights_.scale(i, scores[tile][i]);
      }
    }
    const bool any_named = hide_unnamed(named, scores);
#pragma unroll
    for (float& weight : old_weights) weight = 1.0f;
    if constexpr (kTiles == 1) {
      if (first) take_reference(scores[0]);
    }
    bool added;
    for (;;) {
      // Most weights are so small that they are sent before they are added up.
      added = weigh(scores, weights, sums);
      if (!added) [[likely]]
        break;
      if (!__any_sync(~0u, add_up(sums))) break;
      if constexpr (kTiles > 1) {
        return false;
      } else {
#pragma unroll
        for (int i = 0; i < kHeads; ++i)
          head_weights_.move_reference(i, scores[0][i], sums[0][i], &old_weights[i]);
      }
    }
    if constexpr (S::kTurns > 1) give_references();
    send(buffers, weights, old_weights);
    if (!added) [[likely]]
      add_up(sums);
    if constexpr (S::kTurns > 1) {
      take_sums(first);
      // As move_reference() has done it with sums that these replace. It moves a reference once a
      // tile at most, if there was one: weights are 2 at most afterwards.
#pragma unroll
      for (int i = 0; i < kHeads; ++i) head_weights_.rescale(i, old_weights[i]);
    }
    head_weights_.see(any_named);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < kHeads; ++i) head_weights_.add(i, sums[tile][i]);
    }
    return true;
  }

  /// Makes weights, and what each lane's come to; whether some might be large.
  template <int kTiles>
  __device__ bool weigh(const float (&scores)[kTiles][kHeads][InWarp::kScores],
                        uint32_t (&weights)[kTiles][kHeads][InWarp::kScores / 2],
                        float (&sums)[kTiles][kHeads]) const {
    bool may_be_large = false;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < kHeads; ++i) {
        sums[tile][i] = head_weights_.weigh(i, scores[tile][i], weights[tile][i]);
        may_be_large = may_be_large || head_weights_.may_be_large(sums[tile][i]);
      }
    }
    return __any_sync(~0u, may_be_large);
  }

  /// What sixteens of weights come to; whether this lane's are large.
  template <int kTiles>
  __device__ static bool add_up(float (&sums)[kTiles][kHeads]) {
    bool large = false;
#pragma unroll
    for (auto& of_tile : sums) {
#pragma unroll
      for (float& sum : of_tile) {
        sum = InWarp::add_lanes(sum);
        large = large || HeadWeights<kHeads, InWarp>::are_large(sum);
      }
    }
    return large;
  }

  /// What comes of weights that are made with no reference yet, of which the largest score's are
  /// zero, one, or larger than any that may stay.
  __device__ void take_reference(float (&scores)[kHeads][InWarp::kScores]) {
#pragma unroll
    for (int i = 0; i < kHeads; ++i) {
      float old_weight = 1.0f;  // of nothing
      const bool large = head_weights_.is_large(i, fmaxf(scores[i][0], scores[i][1]));
      head_weights_.move_reference(i, scores[i], large ? INFINITY : 0.0f, &old_weight);
    }
  }

  /// All blocks' shares together: always the same two quarters, and then both sums.
  __device__ void read(uint32_t buffer, float (&scores)[kHeads][InWarp::kScores]) const {
    const auto share = [&](int rank) { return shared_.scores[buffer][rank][set()][lane()]; };
    auto sum = plus(share(0), share(1));
    if constexpr (S::kShares == 4) sum = plus(sum, plus(share(2), share(3)));
    if constexpr (S::kSetHeads == 1) {
      scores[0][0] = sum.x;
      scores[0][1] = sum.y;
    } else if constexpr (kHeads == 1) {
      const bool second = warp() % 2 != 0;
      scores[0][0] = second ? sum.y : sum.x;
      scores[0][1] = second ? sum.w : sum.z;
    } else {
      scores[0][0] = sum.x;
      scores[1][0] = sum.y;
      scores[0][1] = sum.z;
      scores[1][1] = sum.w;
    }
  }

  /// What no slot names has no weight; whether anything is named.
  template <int kTiles>
  __device__ static bool hide_unnamed(const uint64_t (&named)[kTiles],
                                      float (&scores)[kTiles][kHeads][InWarp::kScores]) {
    bool all = true;
#pragma unroll
    for (const uint64_t of_tile : named) all = all && of_tile == ~uint64_t{0};
    if (all) [[likely]]
      return true;
    bool any = false;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      any = any || named[tile] != 0;
      const uint64_t own = named[tile] >> (16 * (lane() / 8) + lane() % 8);
#pragma unroll
      for (int k = 0; k < InWarp::kScores; ++k) {
        if ((own >> (8 * k) & 1) != 0) continue;
#pragma unroll
        for (int i = 0; i < kHeads; ++i) scores[tile][i][k] = -INFINITY;
      }
    }
    return any;
  }

  /// Weights are put together in this block and sent by chunks.
  template <int kTiles>
  __device__ void send(const Buffers<kTiles>& buffers,
                       const uint32_t (&weights)[kTiles][kHeads][InWarp::kScores / 2],
                       const float (&old_weights)[kHeads]) {
    // In two places in turn: all have read the one before when they meet for the next one.
    auto& staged = shared_.staged[warp()][staged_at_];
    staged_at_ ^= 1;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < kHeads; ++i) {
        auto* const at =
            reinterpret_cast<uint16_t*>(staged[tile][i]) + 16 * (lane() / 8) + lane() % 8;
        at[0] = static_cast<uint16_t>(weights[tile][i][0]);
        at[8] = static_cast<uint16_t>(weights[tile][i][0] >> 16);
      }
    }
    __syncwarp();
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const Chunk sent = (&staged[tile][0][0])[chunk()];
      const uint32_t buffer = buffers.at[tile];
#pragma unroll
      for (int i = 0; i < kLaneBlocks; ++i) {
        ptx::store_async(ptx::advance(weights_[i], buffer * sizeof(shared_.weights[0])), sent,
                         ptx::advance(tile_full_[i], buffer * sizeof(uint64_t)));
      }
    }
    if (chunk() >= kTiles) return;
    const uint32_t buffer = chunk() == 0 ? buffers.at[0] : buffers.at[kTiles - 1];
#pragma unroll
    for (int i = 0; i < kLaneBlocks; ++i) {
      const auto to = ptx::advance(old_weights_[i], buffer * sizeof(shared_.old_weights[0]));
      const auto full = ptx::advance(tile_full_[i], buffer * sizeof(uint64_t));
      if constexpr (kHeads == 1) {
        ptx::store_async(to, old_weights[0], full);
      } else {
        ptx::store_async(to, float2{old_weights[0], old_weights[1]}, full);
      }
    }
  }

  /// Tells all weighers what becomes of the unit's sums, and the caller the lse of a row that is
  /// done. Half of a warp does it for each head.
  __device__ void end_unit(uint32_t end_index) {
    const int own = lane() / 16, rank = lane() % 16;
    float sums[kHeads];
    SoftmaxState states[kHeads];
#pragma unroll
    for (int i = 0; i < kHeads; ++i) {
      sums[i] = head_weights_.unit_sum(i);
      states[i] = head_weights_.state(i, sums[i]);
    }
    if (own >= kHeads) return;
    const bool last = own + 1 == kHeads;
    const int head = head_ + own;
    const auto tell = [&](const HeadEnd& end) {
      if (rank >= kCluster) return;
      ptx::store_async(ptx::in_block(&shared_.unit_ends[end_index][head], rank),
                       float4{end.sum, end.left_weight, end.right_weight, end.finish},
                       ptx::in_block(&shared_.unit_end_full[end_index], rank));
    };
    if (head >= heads_here(call_)) return tell({});
    end_head(
        call_, tile_.place(), tile_.row(), first_head(call_) + head,
        last ? sums[kHeads - 1] : sums[0], last ? states[kHeads - 1] : states[0],
        [&] { return sink_; }, row_so_far(), rank == 0, tell);
  }

  /// Of the head that this half of the warp ends.
  __device__ SoftmaxState* row_so_far() {
    if constexpr (S::kTurns > 1) {
      return &shared_.turns.row[set()][lane()];
    } else {
      return &row_so_far_;
    }
  }

  const Call& call_;
  Shared<S>& shared_;
  const int head_;  // the first of this warp's, in the block
  TileCursor tile_;
  HeadWeights<kHeads, InWarp> head_weights_;
  SoftmaxState row_so_far_;  // where no other warp has the same head
  float sink_ = 0.0f;        // of the head that this half of the warp ends
  // Of the first buffers.
  ptx::Remote weights_[kLaneBlocks], old_weights_[kLaneBlocks], tile_full_[kLaneBlocks];
  uint32_t staged_at_ = 0;  // of two places, where weights are put together
  uint32_t parity_ = 1;     // of the turns that this warp has had
};

}  // namespace steady::cuda::sm90::columns
