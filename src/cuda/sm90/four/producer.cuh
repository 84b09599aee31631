// SPDX-License-Identifier: Apache-2.0
// Slots in, tiles of de-quantised tokens in shared memory out, of this block's share of their
// values: the work of two warpgroups.
#pragma once

#include "cuda/sm90/four/shared.cuh"

namespace steady::cuda::sm90::four {

/// A warp brings eight tokens of each tile. Four lanes share a token: each has sixteen values of
/// every block, and copies and reads its own bytes, some tiles ahead. Slots are read and looked up
/// for a batch of tiles at once, a token for each lane, and read two batches ahead of that. Nothing
/// is loaded from global memory into registers but what is rare: such loads would share scoreboards
/// with others that take less time.
template <class S>
class Producer {
 public:
  __device__ Producer(const LayerCall& call, const Divisors& page_tokens, Shared<S>& shared)
      : call_(call),
        page_tokens_(page_tokens),
        shared_(shared),
        raw_(shared.raw[warp()]),
        first_block_(ptx::cluster_rank() * kOwnBlocks),
        at_(line() * sizeof(Block::lines[0])),
        ahead_(call) {}

  /// All tiles of a part that has some.
  __device__ void part(const PartRange& range) {
    ahead_.start(range);
    read_slots();
    read_slots();
    ptx::wait_copies();
#pragma unroll 1
    for (uint32_t stage = 0; stage < kAhead; ++stage) begin_copies(stage);
    Ring<S::kTokenBuffers> ring;
#pragma unroll 1
    for (int tile = 0; tile < begun_; ++tile, ring.advance()) bring(tile, ring);
  }

 private:
  static constexpr int kAhead = Raw::kAhead;
  static constexpr int kTokenLanes = 32 / kWarpTokens;
  static constexpr int kLaneChunks = kBlockChunks / kTokenLanes;  // of a block
  static_assert(kLaneChunks == 2, "made from one chunk of FP8");
  using Found = Raw::Found;
  static constexpr int kBatch = Found::kTiles;
  static_assert(kAhead <= kBatch, "of batches that were looked up two are needed");

  __device__ static int warp() { return static_cast<int>(threadIdx.x - 2 * kGroupThreads) / 32; }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  /// Of a token's lanes.
  __device__ static int share() { return lane() % kTokenLanes; }
  /// Of the warp's tokens, the one that this lane shares.
  __device__ static int token() { return lane() / kTokenLanes; }
  /// Where the tile has it. Of eight lanes that store together no two have the same banks.
  __device__ static int line() { return warp() * kWarpTokens + token(); }

  __device__ bool has_last_block() const { return first_block_ + kOwnBlocks == kBlocks; }

  /// Begins to read the slots of the batch after the next: all lanes at once, so that none waits
  /// for another's.
  __device__ void read_slots() {
    Position position = {};
    int tiles = 0;
#pragma unroll 1
    while (tiles < kBatch && ahead_.valid()) {
      const int next = min(kBatch - tiles, ahead_.tiles()), own = lane() / kWarpTokens - tiles;
      if (own >= 0 && own < next) {
        position =
            position_of(call_, ahead_, own * kTokens + warp() * kWarpTokens + lane() % kWarpTokens);
      }
      ahead_.advance(next);
      tiles += next;
    }
    int32_t* const slot = &raw_.slots[batch_ % 2][lane()];
    if (position.slot != nullptr) {
      ptx::copy_async_4(slot, position.slot);
    } else {
      *slot = kHole;
    }
    next_ = after_next_;
    after_next_ = {tiles, __ballot_sync(~0u, position.scope != 0)};
    ++batch_;
  }

  /// Looks up the next batch, whose slots are there.
  __device__ void find_batch() {
    const int32_t slot = raw_.slots[batch_ % 2][lane()];
    const int scope = next_.scopes >> lane() & 1;
    Found& found = raw_.found[batch_ % 2];
    Found::Place place;  // of no token
    bool named = false, slow = false;
    const Pool& pool = call_.layer.scopes[scope];
    if (slot != kHole && pool.has(slot)) {
      const Token token = pool.token(slot, page_tokens_.of_scope[scope].divide(slot));
      const bool aligned = (reinterpret_cast<uintptr_t>(token.data) % sizeof(uint4) |
                            reinterpret_cast<uintptr_t>(token.scales) % sizeof(uint32_t)) == 0;
      named = true;
      slow = pool.shape.format != STEADY_CACHE_FP8 || !aligned;
      place = {token.data, token.scales};
    }
    found.places[lane()] = place;
    const uint32_t all_named = __ballot_sync(~0u, named), all_slow = __ballot_sync(~0u, slow);
    if (lane() < kBatch) {
      found.tiles[lane()] = {static_cast<uint8_t>(all_named >> (kWarpTokens * lane())),
                             static_cast<uint8_t>(all_slow >> (kWarpTokens * lane())),
                             static_cast<uint8_t>(next_.scopes >> (kWarpTokens * lane()))};
    }
    __syncwarp();
    left_ = next_.tiles;
    read_slots();
  }

  /// Begins to copy this lane's bytes of the next tile, if there is one.
  __device__ void begin_copies(uint32_t stage) {
    if (left_ == 0 && next_.tiles > 0) find_batch();
    if (left_ > 0) {
      --left_;
      const int tile = begun_ % kBatch;
      const Found& found = raw_.found[begun_ / kBatch % 2];
      ++begun_;
      Found::Place place = found.places[tile * kWarpTokens + token()];
      if ((found.tiles[tile].slow >> token() & 1) != 0) place = {};
      const uint8_t* data = place.data + first_block_ * kBlockDims + share() * sizeof(uint4);
      auto& to = raw_.stages[stage];
      ptx::copy_async_4(&to.scales[lane()], place.scales + first_block_ / 4 * 4);
#pragma unroll
      for (int block = 0; block < kOwnBlocks; ++block) {
        const uint8_t* from = data + block * kBlockDims;
        ptx::copy_async_16(&to.bytes[block][lane()], from);
        if (is_bf16(block)) ptx::copy_async_16(&to.bytes[block + 1][lane()], from + kBlockDims);
      }
    }
    ptx::commit_copies();
  }

  /// The last block of all is bf16: twice as long.
  __device__ bool is_bf16(int block) const { return block + 1 == kOwnBlocks && has_last_block(); }

  /// Scale bytes of the own blocks, without the one that means nothing.
  __device__ uint32_t own_scales(uint32_t scales) const {
    constexpr uint32_t kOwn = 0xffff;
    return scales >> (8 * (first_block_ % 4)) & (has_last_block() ? kOwn >> 8 : kOwn);
  }

  /// Brings a tile, and begins to copy another into its place. Who multiplies it has to see to it
  /// that products see it: here that would wait for the copies.
  __device__ void bring(int tile, const Ring<S::kTokenBuffers>& ring) {
    const uint32_t stage = tile % kAhead;
    ptx::wait_copies_but<kAhead - 1>();
    const auto& from = raw_.stages[stage];
    const uint32_t scales = own_scales(from.scales[lane()]);
    uint4 bytes[kOwnBlocks + 1];
#pragma unroll
    for (int i = 0; i <= kOwnBlocks; ++i) bytes[i] = from.bytes[i][lane()];
    const Found& found = raw_.found[tile / kBatch % 2];
    const auto seen = found.tiles[tile % kBatch];
    Block* blocks = shared_.tokens[ring.index];
    ring.wait_empty(shared_.tokens_empty);
    if (lane() == 0) reinterpret_cast<uint8_t*>(&shared_.named[ring.index])[warp()] = seen.named;
    const bool plain = store(scales, bytes, blocks);
    if (seen.slow != 0 || __any_sync(~0u, !plain)) [[unlikely]] {
      store_slowly(found.places[tile % kBatch * kWarpTokens + token()],
                   (seen.scopes >> token() & 1) != 0, (seen.slow >> token() & 1) != 0, !plain,
                   blocks);
    }
    hand_over(&shared_.tokens_full[ring.index]);
    begin_copies(stage);
  }

  /// Whether the values could be made in the plain way.
  __device__ bool store(uint32_t scales, const uint4 (&bytes)[kOwnBlocks + 1],
                        Block* blocks) const {
    PlainDequantiser plain({scales, 0});
    uint8_t* to = reinterpret_cast<uint8_t*>(blocks) + at_;
#pragma unroll
    for (int block = 0; block < kOwnBlocks; ++block, to += sizeof(Block)) {
      // Of eight lanes that store together no two have the same banks.
      const auto chunk = [&](int i) {
        return reinterpret_cast<Chunk*>(to + (i ^ token() % kBlockChunks) * sizeof(Chunk));
      };
      if (is_bf16(block)) {
        *chunk(share()) = bytes[block];
        *chunk(kTokenLanes + share()) = bytes[block + 1];
      } else {
        plain(bytes[block], block, chunk(kLaneChunks * share()), chunk(kLaneChunks * share() + 1));
      }
    }
    return plain.was_plain();
  }

  /// Tokens of bf16, tokens at odd addresses, and tokens that are not plain: each lane the chunks
  /// that it has stored before.
  __device__ void store_slowly(const Found::Place& place, int scope, bool slow, bool again,
                               Block* blocks) const {
    const uint32_t others = __ballot_sync(~0u, again);
    again = (others >> (lane() - share()) & ((1u << kTokenLanes) - 1)) != 0;
    if (!slow && !again) return;
    const Token token = {call_.layer.scopes[scope].shape.format, place.data, place.scales};
#pragma unroll 1
    for (int i = 0; i < kOwnBlocks * kLaneChunks; ++i) {
      const int block = i / kLaneChunks;
      const int own = is_bf16(block) ? share() + kTokenLanes * (i % kLaneChunks)
                                     : kLaneChunks * share() + i % kLaneChunks;
      const int chunk = (first_block_ + block) * kBlockChunks + own;
      *blocks[block].at(line(), own) = read_token(token, chunk);
    }
  }

  /// Of a batch: how many tiles it has, and a bit for each token of the second scope.
  struct Batch {
    int tiles;
    uint32_t scopes;
  };

  const LayerCall& call_;
  const Divisors& page_tokens_;
  Shared<S>& shared_;
  Raw& raw_;
  const int first_block_;  // of this block's share
  const uint32_t at_;      // where a block has this lane's token, in bytes
  TileCursor ahead_;       // the first tile whose slots are not read
  // The batches whose slots are read, and how many have been.
  Batch next_ = {}, after_next_ = {};
  uint32_t batch_ = 0;
  int left_ = 0;   // of the batch that was looked up last, tiles that are not being copied
  int begun_ = 0;  // to be copied
};

}  // namespace steady::cuda::sm90::four
