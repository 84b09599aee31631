// SPDX-License-Identifier: Apache-2.0
// Tiles of tokens as they lie in pages in, this block's share of their scores out, each head's to
// the block that makes its weights, and their values in bf16 out to the weigher: the work of two
// warpgroups that take turns. Tokens are the rows of products, heads the columns. Bytes become bf16
// in the registers from which products take them.
#pragma once

#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/columns/shared.cuh"

namespace steady::cuda::sm90::columns {

template <class S>
class Scorer {
 public:
  __device__ Scorer(const Call& call, Shared<S>& shared, int team)
      : call_(call),
        share_(share_rank<S>()),
        shared_(shared),
        team_(team),
        heads_(heads_here(call)),
        tile_(call),
        next_(first_tile()) {
#pragma unroll
    for (int i = 0; i < kMakers; ++i) {
      auto& to = shared.scores[0][share_][lane() % S::kQuarters][8 * warp() + lane() / 4];
      scores_[i] = ptx::in_block(&to, maker_rank(i));
      scores_full_[i] = ptx::in_block(shared.scores_full, maker_rank(i));
    }
  }

  /// All tiles of a part that has some.
  __device__ void part(const PartRange& range) {
    tile_.start(range);
    ptx::wait_for_earlier_grids();
    load_queries(tile_.row(), 0);
    raw_.advance(team_);
    buffer_.advance(first_tile());
    while (tile_.valid()) {
      if (tile_.first_of_row_here()) [[unlikely]]
        change_queries();
      const int tiles = tile_.tiles();
#pragma unroll 1
      for (; next_ < tiles; next_ += kStep) {
        score(next_ * kTokens);
        raw_.advance(kScorers);
        buffer_.advance(kStep);
      }
      next_ -= tiles;
      tile_.advance(tiles);
    }
    // The twin hands back what it has of the last tiles: until then this block must be there.
    if constexpr (S::kTwins == 2) {
      for (uint32_t i = 0; i < S::kBuffers; i += kStep) {
        wait_for_place();
        buffer_.advance(kStep);
      }
    }
  }

 private:
  /// Of products, over a quarter of a vector.
  struct Sums {
    float at[S::kHeads / 2];
  };
  /// Over those that this block has.
  using Quarters = Sums[S::kQuarters];

  /// From one of a team's tiles to the next one; and to blocks of how many makers a lane sends.
  static constexpr int kStep = kScorers * S::kTwins, kMakers = 2 / S::kSetHeads;
  /// Of this team's.
  __device__ int first_tile() const { return S::kTwins * team_ + twin_rank<S>(); }

  /// The tile `from` tokens further on than the cursor's.
  __device__ void score(int from) {
    raw_.wait_full(shared_.raw_full);
    const Raw<S>& raw = shared_.raw[raw_.index];
    // By the lane that will hand the buffer over.
    const bool slow = __any_sync(~0u, lane() == 0 && raw.slow != 0);
    Quarters sums;
    if (slow || !S::kFewBuffers) wait_for_place();
    if (slow || !score_plain(raw, sums)) [[unlikely]] {
      make_bf16(raw, from);
      multiply(sums);
    }
    send(sums, raw);
    if constexpr (S::kTwins == 2) send_values();
    ptx::arrive(&shared_.tile_full[buffer_.index]);
    ptx::arrive(&shared_.raw_empty[raw_.index]);
  }

  /// Waits until the tile's values have a place. Where buffers are few that is when the first ones
  /// are there, not before.
  __device__ void wait_for_place() { buffer_.wait_empty(shared_.values_empty); }

  static constexpr int kAllThreads = kScorers * kGroupThreads;
  static constexpr int kBlockSteps = kBlockDims / 16;  // of products
  using Operand = ptx::Fragment[kBlockSteps];          // tokens by a block's values
  using Words = uint32_t[kBlockSteps / 2][4];          // bytes of four values each
  static constexpr int kOwnBlocks = S::kOwnBlocks, kOwnDims = S::kOwnDims;

  __device__ static int thread() { return static_cast<int>(threadIdx.x) % kGroupThreads; }
  __device__ static int warp() { return thread() / 32; }
  __device__ static int lane() { return thread() % 32; }
  /// Of the `i`-th block that makes the weights of this lane's heads.
  __device__ static int maker_rank(int i) { return (kMakers * (lane() % 4) + i) / S::kQuarters; }
  __device__ static bool begins_quarter(int block, int step) {
    return block % S::kQuarterBlocks == 0 && step == 0;
  }
  __device__ static void pin(Quarters& sums) {
    for (Sums& quarter : sums) ptx::pin(quarter.at);
  }
  __device__ int thread_of_all() const { return team_ * kGroupThreads + thread(); }
  __device__ static void sync_all() { ptx::sync(NamedBarriers::kScorers, kAllThreads); }

  /// Waits for the queries of the tile's row, and begins to load the next one's.
  __device__ void change_queries() {
    queries_ ^= 1;
    ptx::wait_copies();
    for_queries(queries_, [&](int, int block, Chunk& first, Chunk& second) {
      if (!is_last_scored<S>(block)) permute(first, second);
    });
    ptx::fence_shared_writes();
    sync_all();  // all have theirs there, and nobody needs the last row's
    if (tile_.goes_on()) load_queries(tile_.row() + 1, queries_ ^ 1);
  }

  /// Does `what` for each sixteen queries that this thread brings, the `piece`-th of a head's.
  template <class What>
  __device__ void for_queries(int buffer, const What& what) {
    constexpr int kPieces = kOwnDims / kPermutedDims, kBlockPieces = kBlockDims / kPermutedDims;
    const int piece = thread() % kPieces, block = piece / kBlockPieces;
#pragma unroll 1
    for (int head = thread_of_all() / kPieces; head < heads_; head += kAllThreads / kPieces) {
      auto& lines = shared_.q[buffer][block];
      const int chunk = piece % kBlockPieces * 2;
      what(head, block, *lines.at(head, chunk), *lines.at(head, chunk + 1));
    }
  }

  /// Begins to load this block's share of a row's queries.
  __device__ void load_queries(int row, int buffer) {
    const Layer& layer = call_.layer;
    const uint16_t* const q =
        layer.q + row_offset(layer.q_strides, call_.queries, row, first_head(call_)) +
        share_ * kOwnDims + thread() % (kOwnDims / kPermutedDims) * kPermutedDims;
    const bool aligned = reinterpret_cast<uintptr_t>(q) % sizeof(Chunk) == 0 &&
                         layer.q_strides.head % kChunkDims == 0;
    for_queries(buffer, [&](int head, int, Chunk& first, Chunk& second) {
      const uint16_t* const from = q + head * layer.q_strides.head;
      if (aligned) [[likely]] {
        ptx::copy_async_16(&first, from);
        ptx::copy_async_16(&second, from + kChunkDims);
      } else {
        first = read_chunk(from);
        second = read_chunk(from + kChunkDims);
      }
    });
  }

  /// sums = tokens · q, over the values that this block shares, of tokens in bf16.
  __device__ void multiply(Quarters& sums) {
    pin(sums);
    ptx::begin_products();
#pragma unroll
    for (int block = 0; block < kOwnBlocks; ++block) {
      const auto tokens = ptx::uniform(ptx::describe_operand(&place(block)));
      const auto q = ptx::uniform(ptx::describe_operand(&shared_.q[queries_][block]));
#pragma unroll
      for (int step = 0; step < kBlockSteps; ++step) {
        const uint32_t bytes = 16 * step * sizeof(uint16_t);
        ptx::multiply_add<S::kHeads>(sums[block / S::kQuarterBlocks].at,
                                     ptx::advance(tokens, bytes), ptx::advance(q, bytes),
                                     !begins_quarter(block, step));
      }
    }
    ptx::commit_products();
    ptx::wait_products<0>();
    pin(sums);
  }

  /// Begins to add the products over one block's values, from registers.
  __device__ void begin_products(const Operand& tokens, int block, Quarters& sums) const {
    const auto q = ptx::uniform(ptx::describe_operand(&shared_.q[queries_][block]));
    ptx::begin_products();
#pragma unroll
    for (int step = 0; step < kBlockSteps; ++step) {
      ptx::multiply_add<S::kHeads>(sums[block / S::kQuarterBlocks].at, tokens[step],
                                   ptx::advance(q, 16 * step * sizeof(uint16_t)),
                                   !begins_quarter(block, step));
    }
    ptx::commit_products();
  }

  __device__ static void keep(const Operand& operand) {
#pragma unroll
    for (const ptx::Fragment& fragment : operand) ptx::keep(fragment);
  }

  /// A lane's bytes of a block, of which `line` is the lane's line.
  __device__ static void load_words(const uint8_t* line, Words& words) {
#pragma unroll
    for (int step = 0; step < kBlockSteps; step += 2)
      ptx::load_matrices(words[step / 2], line + step * 16);
  }
  /// The same of a block that is bf16.
  __device__ static void load_values(const uint8_t* line, Operand& values) {
#pragma unroll
    for (int step = 0; step < kBlockSteps; ++step)
      ptx::load_matrices(values[step].at, line + step * 16 * sizeof(uint16_t));
  }

  /// Turns bytes into bf16, by the scales of the lane's upper and its lower token.
  __device__ static void make_values(const Words& words, uint32_t upper_scale, uint32_t lower_scale,
                                     NanFinder* nan, Operand& values) {
    const uint32_t upper_factor = plain::factor(upper_scale),
                   lower_factor = plain::factor(lower_scale);
#pragma unroll
    for (int step = 0; step < kBlockSteps; step += 2) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t factor = i % 2 == 0 ? upper_factor : lower_factor;
        const auto made = plain::values_of(words[step / 2][i], factor, nan);
        values[step + i / 2].at[i % 2] = made.even;
        values[step + i / 2].at[2 + i % 2] = made.odd;
      }
    }
  }

  /// sums = tokens · q, of a tile as it lies in pages, whose values it leaves for the weigher.
  /// False if it is not what most are, FP8 without NaN and with scales that are not large.
  __device__ bool score_plain(const Raw<S>& raw, Quarters& sums) {
    const int lane = this->lane(), token = 16 * warp() + lane / 4;
    // Lanes give the lines of matrices to be loaded and stored: those of this warp's upper rows, of
    // the lower ones, then both a chunk further on.
    const int line = 16 * warp() + lane % 16, chunk = lane / 16;
    const uint8_t* const from = raw.lines[line] + chunk * sizeof(Chunk);
    const uint32_t upper = own_scales(raw.scales[token]), lower = own_scales(raw.scales[token + 8]);
    NanFinder nan;
    Operand tokens[2];
    Words words[2];
    load_words(from, words[0]);
    pin(sums);
#pragma unroll
    for (int block = 0; block < kOwnBlocks; ++block) {
      auto& of_block = tokens[block % 2];
      if (block >= 2) {
        ptx::wait_products<1>();
        keep(of_block);
      }
      // The next block's bytes are on their way while this one's are turned into bf16, in vain if
      // that one is bf16: they are there to be read, so that no branch is needed.
      if (block + 1 < kOwnBlocks) load_words(from + (block + 1) * kBlockDims, words[1 - block % 2]);
      if (is_last_scored<S>(block)) {
        load_values(from + block * kBlockDims, of_block);
      } else {
        make_values(words[block % 2], upper >> (8 * block) & 0xff, lower >> (8 * block) & 0xff,
                    &nan, of_block);
      }
      begin_products(of_block, block, sums);
      if (S::kFewBuffers && block == 0) wait_for_place();
      const auto to = reinterpret_cast<uintptr_t>(place(block).at(line, chunk));
#pragma unroll
      for (int step = 0; step < kBlockSteps; ++step) {
        const auto& at = of_block[step].at;
        ptx::store_matrices(reinterpret_cast<void*>(to ^ 2 * step * sizeof(Chunk)), at[0], at[1],
                            at[2], at[3]);
      }
    }
    if constexpr (S::kTwins == 2) ptx::fence_shared_writes();  // of what is sent to the twin
    const bool other =
        nan.found() || (plain::large_scales(upper) | plain::large_scales(lower)) != 0;
    const bool any_other = ptx::sync_any(NamedBarriers::kScorer + team_, kGroupThreads, other);
    ptx::wait_products<0>();
    for (const auto& of_block : tokens) keep(of_block);
    pin(sums);
    return !any_other;
  }

  /// Scale bytes of the own blocks, without the one that means nothing.
  __device__ uint32_t own_scales(uint32_t scales) const {
    constexpr uint32_t kOwn = ~0u >> (32 - 8 * kOwnBlocks);
    const uint32_t own = scales >> (8 * (share_ * kOwnBlocks % 4));
    return own & (is_last_scored<S>(kOwnBlocks - 1) ? kOwn >> 8 : kOwn);
  }

  /// Makes a tile's values in whatever way it takes, the tile `from` tokens further on than the
  /// cursor's: each warp its own tokens, of which two lanes share one.
  __device__ void make_bf16(const Raw<S>& raw, int from) {
    const int line = 16 * warp() + lane() / 2;
    unsigned long long all_named = lane() == 0 ? raw.named : 0;
    all_named = __shfl_sync(~0u, all_named, 0);
    const bool named = (all_named >> line & 1) != 0;
    const Position position = position_of(call_, tile_, from + line);
    Token token = {};
    if (named) {
      token = call_.token(position.scope, *position.slot);
    }
#pragma unroll 1
    for (int own = lane() % 2 * 2; own < kOwnBlocks * kBlockChunks; own += 4) {
      const int block = own / kBlockChunks, i = own % kBlockChunks;
      Block& to = place(block);
      Chunk first = {}, second = {};
      if (named) {
        const int chunk = share_ * kOwnBlocks * kBlockChunks + own;
        first = read_token(token, chunk);
        second = read_token(token, chunk + 1);
        if (!is_last_scored<S>(block)) permute(first, second);
      }
      *to.at(line, i) = first;
      *to.at(line, i + 1) = second;
    }
    ptx::fence_shared_writes();
    ptx::sync(NamedBarriers::kScorer + team_, kGroupThreads);
  }

  /// Where a block's values go: to the own weigher, or on their way to the twin's.
  __device__ Block& place(int block) {
    if constexpr (S::kTwins == 2) {
      return block == twin_rank<S>() ? shared_.values[buffer_.index][0] : for_twin();
    } else {
      return shared_.values[buffer_.index][block];
    }
  }
  /// Free when the tile's place is.
  __device__ Block& for_twin() { return shared_.for_twin.values[buffer_.index / 2]; }

  /// Sends each head's scores to the block that makes its weights: of every eight heads a lane has
  /// two, which one block makes, or two do. The own one and its twin are told what is named as
  /// well.
  __device__ void send(const Quarters& sums, const Raw<S>& raw) {
    const uint32_t buffer = buffer_.index;
    const auto to = [&](int eight, int i) {
      return ptx::advance(scores_[i], buffer * sizeof(shared_.scores[0]) +
                                          eight * S::kQuarters * sizeof(shared_.scores[0][0][0]));
    };
    const auto full = [&](int i) {
      return ptx::advance(scores_full_[i], buffer * sizeof(uint64_t));
    };
#pragma unroll
    for (int eight = 0; eight < S::kHeads / 8; ++eight) {
      const float* sum = &sums[0].at[4 * eight];
      float4 share = {sum[0], sum[1], sum[2], sum[3]};
      if constexpr (S::kQuarters == 2) {
        const float* other = &sums[1].at[4 * eight];
        share = plus(share, {other[0], other[1], other[2], other[3]});
      }
      if constexpr (kMakers == 2) {
        ptx::store_async(to(eight, 0), float2{share.x, share.z}, full(0));
        ptx::store_async(to(eight, 1), float2{share.y, share.w}, full(1));
      } else {
        ptx::store_async(to(eight, 0), share, full(0));
      }
    }
    if (thread() != 0) return;
    const uint64_t named = raw.named;
#pragma unroll
    for (int twin = 0; twin < S::kTwins; ++twin) {
      const int rank = ptx::cluster_rank() ^ twin;
      ptx::store_async(ptx::in_block(&shared_.named[buffer], rank), named,
                       ptx::in_block(&shared_.scores_full[buffer], rank));
    }
  }

  /// Sends the twin its half of the tile's values, which all threads have stored.
  __device__ void send_values() {
    if (thread() != 0) return;
    ptx::copy_to_block(in_twin(shared_.values[buffer_.index]), &for_twin(), sizeof(Block),
                       in_twin(&shared_.tile_full[buffer_.index]));
  }

  const Call& call_;
  const int share_;
  Shared<S>& shared_;
  const int team_, heads_;
  TileCursor tile_;
  ptx::Remote scores_[kMakers], scores_full_[kMakers];  // of the first buffer, of each maker
  Ring<kRaws> raw_;
  Ring<S::kBuffers> buffer_;
  int next_;         // tile of the unit that is this team's
  int queries_ = 1;  // which buffer is used
};

}  // namespace steady::cuda::sm90::columns
