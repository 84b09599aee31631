// SPDX-License-Identifier: Apache-2.0
// Slots in, tiles of de-quantised tokens in shared memory out, of this block's share of their
// values: the work of two warpgroups.
#pragma once

#include "cuda/sm90/pair/shared.cuh"
#include "cuda/sm90/tokens.cuh"

namespace steady::cuda::sm90::pair {

/// A warp brings eight tokens of each tile. Four lanes share a token: each has sixteen values of
/// every block. While a tile is turned into bf16, the bytes of the next one take their place in
/// registers. Slots are read and
/// looked up for a batch of tiles at once, a token for each lane. Slots and scales come through
/// shared memory: a register that is carried into the next turn would be copied there, and the copy
/// waits for what is loaded.
template <class S>
class Producer {
 public:
  __device__ Producer(const Call& call, Shared<S>& shared)
      : call_(call),
        shared_(shared),
        first_block_(ptx::cluster_rank() * S::kOwnBlocks),
        at_(line() * sizeof(Block::lines[0])),
        ahead_(call) {}

  /// All tiles of a part that has some.
  __device__ void part(const PartRange& range) {
    ahead_.start(range);
    ptx::wait_for_earlier_grids();
    read_slots();
    ptx::wait_copies();
    Tile tile;
    const Source source = find_next(&tile);
    fetch_scales(source);
#pragma unroll
    for (int block = 0; block < kOwnBlocks; ++block) fetch_block(source, block, &tile);
    read_slots_ahead();
    for (Ring<S::kTokenBuffers> ring; tile.there; ring.advance()) bring(&tile, ring);
  }

 private:
  static constexpr int kOwnBlocks = S::kOwnBlocks;
  static constexpr int kTokenLanes = 32 / kWarpTokens;
  static constexpr int kLaneChunks = kBlockChunks / kTokenLanes;  // of a block
  static_assert(kLaneChunks == 2, "made from one chunk of FP8");
  using Mask = uint8_t;                            // of a warp's tokens
  static constexpr int kBatch = 32 / kWarpTokens;  // of a warp's tiles

  /// What a lane has of a tile: its share of a token.
  struct Tile {
    bool there;
    Mask named, slow;  // a bit for each token
    uint8_t scope;
    int32_t slot;
    uint4 chunks[kOwnBlocks + 1];  // one of each block, two of a block of bf16
  };
  /// Where it comes from.
  struct Source {
    const uint8_t *data, *scales;
  };

  __device__ static int warp() { return static_cast<int>(threadIdx.x - 2 * kGroupThreads) / 32; }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  /// Of a token's lanes.
  __device__ static int share() { return lane() % kTokenLanes; }
  /// Of the warp's tokens, the one that this lane shares.
  __device__ static int token() { return lane() / kTokenLanes; }
  /// Where the tile has it. Of eight lanes that store together no two have the same banks.
  __device__ static int line() { return warp() * kWarpTokens + token(); }

  __device__ bool has_last_block() const { return first_block_ + kOwnBlocks == kBlocks; }

  /// Begins to read the slots of the next batch: all lanes at once, so that none waits for
  /// another's.
  __device__ void read_slots() {
    Position position = {};
    coming_ = 0;
#pragma unroll 1
    while (coming_ < kBatch && ahead_.valid()) {
      const int tiles = min(kBatch - coming_, ahead_.tiles()), own = lane() / kWarpTokens - coming_;
      if (own >= 0 && own < tiles) {
        position =
            position_of(call_, ahead_, own * kTokens + warp() * kWarpTokens + lane() % kWarpTokens);
      }
      ahead_.advance(tiles);
      coming_ += tiles;
    }
    scope_ = position.scope;
    there_ = position.slot != nullptr;
    if (there_) ptx::copy_async_4(&shared_.slots[warp()][lane()], position.slot);
  }
  /// The same, if the batch that was read has been looked up.
  __device__ void read_slots_ahead() {
    if (looked_up_) read_slots();
    looked_up_ = false;
    ptx::commit_copies();
  }

  /// Looks up the batch whose slots were read.
  __device__ void find_batch() {
    const uint8_t* const none = kNoTokens[ptx::thread_number() % 32].bytes;
    found_ = {none, none + STEADY_FP8_DATA_BYTES};
    found_slot_ = there_ ? shared_.slots[warp()][lane()] : kHole;
    bool named = false, slow = false;
    const Pool& pool = call_.layer.scopes[scope_];
    if (found_slot_ != kHole && pool.has(found_slot_)) {
      const Token place = call_.token(scope_, found_slot_);
      const bool aligned = (reinterpret_cast<uintptr_t>(place.data) % sizeof(uint4) |
                            reinterpret_cast<uintptr_t>(place.scales) % sizeof(uint32_t)) == 0;
      named = true;
      slow = pool.shape.format != STEADY_CACHE_FP8 || !aligned;
      if (!slow)
        found_ = {place.data + first_block_ * kBlockDims, place.scales + first_block_ / 4 * 4};
    }
    found_named_ = __ballot_sync(~0u, named);
    found_slow_ = __ballot_sync(~0u, slow);
    found_scopes_ = __ballot_sync(~0u, scope_ != 0);
    found_tiles_ = coming_;
    next_ = 0;
    looked_up_ = true;
  }

  /// What is known of the next tile.
  __device__ Source find_next(Tile* tile) {
    if (next_ == found_tiles_) find_batch();
    const int first = next_ * kWarpTokens, from = first + token();
    tile->there = next_ < found_tiles_;
    tile->named = static_cast<Mask>(found_named_ >> first & ((1u << kWarpTokens) - 1));
    tile->slow = static_cast<Mask>(found_slow_ >> first & ((1u << kWarpTokens) - 1));
    tile->scope = static_cast<uint8_t>(found_scopes_ >> from & 1);
    tile->slot = __shfl_sync(~0u, found_slot_, from);
    const Source source = {of_lane(from, found_.data) + share() * sizeof(uint4),
                           of_lane(from, found_.scales)};
    if (tile->there) ++next_;
    return source;
  }

  __device__ static const uint8_t* of_lane(int lane, const uint8_t* pointer) {
    const auto address = static_cast<unsigned long long>(reinterpret_cast<uintptr_t>(pointer));
    return reinterpret_cast<const uint8_t*>(__shfl_sync(~0u, address, lane));
  }

  /// The last block of all is bf16: twice as long.
  __device__ bool is_bf16(int block) const { return block + 1 == kOwnBlocks && has_last_block(); }
  __device__ void fetch_block(const Source& source, int block, Tile* tile) const {
    const uint8_t* from = source.data + block * kBlockDims;
    if (is_bf16(block)) from += share() * sizeof(uint4);
    ptx::load(&tile->chunks[block], from);
    if (is_bf16(block)) ptx::load(&tile->chunks[block + 1], from + sizeof(uint4));
  }

  __device__ void fetch_scales(const Source& source) {
    if (share() == 0) ptx::copy_async_4(&shared_.scales[warp()][token()], source.scales);
    ptx::commit_copies();
  }

  /// Scale bytes of the own blocks, without the one that means nothing.
  __device__ uint32_t own_scales(uint32_t scales) const {
    constexpr uint32_t kOwn = kOwnBlocks == 4 ? ~0u : 0xffffu;
    return scales >> (8 * (first_block_ % 4)) & (has_last_block() ? kOwn >> 8 : kOwn);
  }

  /// Brings a tile, and fetches the next one into its place.
  __device__ void bring(Tile* tile, const Ring<S::kTokenBuffers>& ring) {
    const Mask named = tile->named, slow = tile->slow;
    const uint8_t scope = tile->scope;
    const int32_t slot = tile->slot;
    ptx::wait_copies_but<1>();  // but for the slots
    __syncwarp();
    const uint32_t scales = own_scales(shared_.scales[warp()][token()]);
    __syncwarp();
    const Source source = find_next(tile);
    fetch_scales(source);
    ring.wait_empty(shared_.tokens_empty);
    Block* blocks = shared_.tokens[ring.index];
    if (lane() == 0) reinterpret_cast<Mask*>(&shared_.named[ring.index])[warp()] = named;
    const bool plain = store(scales, source, tile, blocks);
    read_slots_ahead();
    if (slow != 0 || __any_sync(~0u, !plain)) [[unlikely]]
      store_slowly(scope, slot, (slow >> token() & 1) != 0, !plain, blocks);
    ptx::fence_shared_writes();
    hand_over(&shared_.tokens_full[ring.index]);
  }

  /// Whether the values could be made in the plain way.
  __device__ bool store(uint32_t scales, const Source& source, Tile* tile, Block* blocks) const {
    PlainDequantiser plain({scales, 0});
    uint8_t* to = reinterpret_cast<uint8_t*>(blocks) + at_;
    // The lane's chunk `i` of the line.
    const uint32_t first = (kLaneChunks * share() ^ token() % kBlockChunks) * sizeof(Chunk);
    const auto chunk = [&](uint32_t i) {
      return reinterpret_cast<Chunk*>(to + (first ^ i * sizeof(Chunk)));
    };
#pragma unroll
    for (int block = 0; block < kOwnBlocks; ++block, to += sizeof(Block)) {
      const uint4* bytes = &tile->chunks[block];
      if (is_bf16(block)) {
        *chunk(0) = bytes[0];
        *chunk(1) = bytes[1];
      } else {
        plain(bytes[0], block, chunk(0), chunk(1));
      }
      fetch_block(source, block, tile);
      __syncwarp();  // otherwise the compiler collects the loads at the end
    }
    return plain.was_plain();
  }

  /// Tokens of bf16, tokens at odd addresses, and tokens that are not plain: each lane the chunks
  /// that it has stored before.
  __device__ void store_slowly(int scope, int32_t slot, bool slow, bool again,
                               Block* blocks) const {
    const uint32_t others = __ballot_sync(~0u, again);
    again = (others >> (lane() - share()) & ((1u << kTokenLanes) - 1)) != 0;
    if (!slow && !again) return;
    const Token place = call_.token(scope, slot);
#pragma unroll 1
    for (int i = 0; i < kOwnBlocks * kLaneChunks; ++i) {
      const int block = i / kLaneChunks, own = kLaneChunks * share() + i % kLaneChunks;
      const int chunk = (first_block_ + block) * kBlockChunks + own;
      *blocks[block].at(line(), own) = read_token(place, chunk);
    }
  }

  const Call& call_;
  Shared<S>& shared_;
  const int first_block_;  // of this block's share
  const uint32_t at_;      // where a block has this lane's token, in bytes
  // The batch whose slots are on their way: a token of a tile for each lane.
  TileCursor ahead_;
  bool there_, looked_up_ = false;
  int scope_, coming_;
  // The batch that was looked up, and its next tile.
  Source found_;
  int32_t found_slot_;
  uint32_t found_named_, found_slow_, found_scopes_;
  int found_tiles_ = 0, next_ = 0;
};

}  // namespace steady::cuda::sm90::pair
