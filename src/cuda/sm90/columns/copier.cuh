// SPDX-License-Identifier: Apache-2.0
// Slots in, tiles of tokens in shared memory out, this block's share of their bytes as they lie in
// pages: the work of two warpgroups.
#pragma once

#include "cuda/sm90/columns/shared.cuh"

namespace steady::cuda::sm90::columns {

/// Two warps bring every fourth tile that is scored here, half of it each. A lane looks up one of
/// its tokens, whose slot it has read two such tiles before.
template <class S>
class Copier {
 public:
  __device__ Copier(const Call& call, Shared<S>& shared)
      : call_(call),
        shared_(shared),
        places_(shared.found[team()].places + first_token()),
        ahead_(call) {}

  /// All tiles of a part that has some.
  __device__ void part(const PartRange& range) {
    ahead_.start(range);
    skip(team() * S::kTwins + twin_rank<S>());
    ptx::wait_for_earlier_grids();
    read_slot();
    read_slot();
    Ring<kRaws> ring;
    ring.advance(team());
    for (; next_.is_there; ring.advance(kRaws)) {
      find();
      ring.wait_empty(shared_.raw_empty);
      copy(&shared_.raw[ring.index]);
      ptx::arrive_when_copied(&shared_.raw_full[ring.index]);
      hand_over(&shared_.raw_full[ring.index]);
      read_slot();
    }
  }

 private:
  static constexpr int kTokensHere = 32;  // of a tile
  static constexpr int kChunkBytes = sizeof(Chunk);
  static_assert(kTokensHere * kTileCopiers == kTokens);
  static constexpr int kOwnDims = S::kOwnDims;
  static_assert(4 % S::kOwnBlocks == 0, "a share's scales lie in one word");

  __device__ static int warp() { return static_cast<int>(threadIdx.x) / 32 % kCopierWarps; }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  /// Of the two that share a tile this is the `half`-th, and they are the `team`-th two.
  __device__ static int half() { return warp() % kTileCopiers; }
  __device__ static int team() { return warp() / kTileCopiers; }
  __device__ static int first_token() { return half() * kTokensHere; }
  __device__ static int first_dim() { return share_rank<S>() * kOwnDims; }

  /// Goes over so many tiles, or as many as there are.
  __device__ void skip(int tiles) {
#pragma unroll 1
    while (tiles > 0 && ahead_.valid()) {
      const int step = min(tiles, ahead_.tiles());
      ahead_.advance(step);
      tiles -= step;
    }
  }

  /// Begins to read the slot of the tile after the next of this warp's.
  __device__ void read_slot() {
    const Position position = position_of(call_, ahead_, first_token() + lane());
    Slot slot = {ahead_.valid(), position.scope, kHole};
    if (position.slot != nullptr) slot.slot = *position.slot;
    skip(kRaws * S::kTwins);
    next_ = after_next_;  // only here, for it waits for what was read last
    after_next_ = slot;
  }

  /// Looks up the tokens of the next tile, whose slots are there.
  __device__ void find() {
    const int32_t slot = next_.slot;
    const int scope = next_.scope;
    const uint8_t* const none = kNoTokens[ptx::thread_number() % 32].bytes;
    Found::Place place = {none, none + STEADY_FP8_DATA_BYTES};
    bool named = false, slow = false;
    const Pool& pool = call_.layer.scopes[scope];
    if (slot != kHole && pool.has(slot)) {
      const Token token = call_.token(scope, slot);
      named = true;
      slow = pool.shape.format != STEADY_CACHE_FP8 ||
             (reinterpret_cast<uintptr_t>(token.data) % sizeof(uint4) |
              reinterpret_cast<uintptr_t>(token.scales) % sizeof(uint32_t)) != 0;
      if (!slow) place = {token.data, token.scales};
    }
    __syncwarp();  // all are done with the last ones
    places_[lane()] = place;
    named_ = __ballot_sync(~0u, named);
    slow_ = __ballot_sync(~0u, slow);
    __syncwarp();
  }

  /// Begins to copy the tokens that were found.
  __device__ void copy(Raw<S>* to) {
    if (lane() == 0) {
      reinterpret_cast<uint32_t*>(&to->named)[half()] = named_;
      reinterpret_cast<uint32_t*>(&to->slow)[half()] = slow_;
    }
    ptx::copy_async_4(&to->scales[first_token() + lane()],
                      places_[lane()].scales + first_dim() / kBlockDims / 4 * 4);
    copy<kOwnDims / kChunkBytes>(to, 0);
    // The last block of all is twice as long.
    if (is_last_scored<S>(S::kOwnBlocks - 1)) copy<kBlockDims / kChunkBytes>(to, kOwnDims);
  }

  /// So many chunks of each token, from byte `begin` of this block's share on.
  template <int kChunks>
  __device__ void copy(Raw<S>* to, int begin) {
    constexpr int kStep = 32 / kChunks, kAtOnce = 4;
    static_assert(kTokensHere % (kAtOnce * kStep) == 0);
    begin += lane() % kChunks * kChunkBytes;
#pragma unroll
    for (int first = 0; first < kTokensHere; first += kAtOnce * kStep) {
      // Read together: the compiler leaves no load behind the copy before it.
      const uint8_t* data[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i)
        data[i] = places_[first + i * kStep + lane() / kChunks].data + first_dim() + begin;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int token = first_token() + first + i * kStep + lane() / kChunks;
        ptx::copy_async_16(to->lines[token] + begin, data[i]);
      }
    }
  }

  /// This lane's token of a tile.
  struct Slot {
    bool is_there;  // the tile
    int scope;
    int32_t slot;
  };

  const Call& call_;
  Shared<S>& shared_;
  Found::Place* const places_;
  TileCursor ahead_;                  // this warp's first tile whose slot is not read
  Slot next_ = {}, after_next_ = {};  // that are read
  uint32_t named_, slow_;             // a bit for each token that was found
};

}  // namespace steady::cuda::sm90::columns
