// SPDX-License-Identifier: Apache-2.0
// Slots in, tiles of de-quantised tokens in shared memory out: the work of one warpgroup.
#pragma once

#include "cuda/sm90/block/shared.cuh"
#include "cuda/sm90/tokens.cuh"

namespace steady::cuda::sm90::block {

/// A warp brings eight tokens of each of a tile's pieces. Four lanes share a token: each has
/// sixteen values of every block. While a piece is turned into bf16, the bytes of the next one are
/// copied to shared memory. But for tokens that are not plain, nothing is loaded from global
/// memory into registers: such loads would share scoreboards with others that take less time.
class Producer {
 public:
  __device__ Producer(const Call& call, Shared& shared) : call_(call), shared_(shared) {}

  /// All tiles of a part that has some.
  __device__ void part() {
    ptx::wait_for_earlier_grids();
    found_.wait_full(shared_.found_full);  // then there is a unit
    begin_copies(place(), 0);
    bool goes_on;
    do {
      const Unit& unit = shared_.units[number_++ % kUnits];
      for (int left = unit.tiles; left > 0; --left) {
#pragma unroll 1
        for (int number = 0; number < kTilePieces; ++number) {
          ring_.wait_empty(shared_.tokens_empty[number]);
          bring(number);
        }
        ptx::fence_shared_writes();
        ptx::arrive(&shared_.tokens_full[ring_.index]);
        ring_.advance();
      }
      goes_on = !unit.ends_part;
    } while (goes_on);
    ptx::wait_copies();  // of what comes after the last tile
  }

 private:
  static constexpr int kTokenLanes = 4;
  static_assert(kTokenLanes * Raw::kWarpTokens == 32);
  static constexpr int kLaneChunks = kBlockChunks / kTokenLanes;  // of a block

  /// Of this thread; asked for once a piece, for there are no registers to keep it all.
  struct Place {
    int warp, lane;
    int token, share;  // of a piece's tokens and of that one's lanes

    /// The line of a tile that this lane shares in piece `number`.
    __device__ int line(int number) const {
      return (number * kWarps + warp) * Raw::kWarpTokens + token;
    }
  };
  __device__ static Place place() {
    const int thread = ptx::thread_number(), lane = thread % 32;
    return {thread / 32 % kWarps, lane, lane / kTokenLanes, lane % kTokenLanes};
  }

  /// Begins to copy piece `number` of the tile that was found.
  __device__ void begin_copies(const Place& place, int number) {
    const Found& found = shared_.found[found_.index];
    const int line = place.line(number);
    const uint8_t* data = found.data[line];
    const uint8_t* scales = data + found.scales[line];
    flags_ = found.flags[line];
    if ((flags_ & (Found::kNamed | Found::kSlow)) != Found::kNamed) {
      data = kNoTokens[place.warp * Raw::kWarpTokens + place.token].bytes;
      scales = data + STEADY_FP8_DATA_BYTES;
    }
    data += place.share * sizeof(uint4);
    Raw& raw = shared_.raw[place.warp];
    if (place.share == 0) ptx::copy_async_8(&raw.scales[place.token], scales);
#pragma unroll
    for (int i = 0; i <= kBlocks; ++i)
      ptx::copy_async_16(&raw.bytes[i][place.lane], data + i * kTokenLanes * sizeof(uint4));
  }

  /// Brings a piece, and begins to copy the next one into its place.
  __device__ void bring(int number) {
    ptx::wait_copies();
    __syncwarp();
    const Place place = this->place();
    const uint32_t flags = flags_;
    const Found& found = shared_.found[found_.index];
    const uint32_t all_named = __ballot_sync(~0u, (flags & Found::kNamed) != 0);
    if (place.lane == 0) shared_.named[ring_.index][number * kWarps + place.warp] = all_named;
    const bool last = number + 1 == kTilePieces;
    if (last) {
      found_.advance();
      found_.wait_full(shared_.found_full);
    }
    Block* blocks = shared_.tokens[ring_.index];
    const int line = place.line(number);
    const bool plain = store(place, line, last ? 0 : number + 1, blocks);
    const bool slow = (flags & Found::kSlow) != 0;
    if (__any_sync(~0u, slow || !plain)) [[unlikely]]
      store_slowly(place.share, line, found, flags, !plain, blocks);
  }

  /// The last block is bf16.
  static constexpr bool is_bf16(int block) { return block + 1 == kBlocks; }

  /// Whether the values could be made in the plain way. Of eight lanes that store together no two
  /// have the same banks.
  __device__ bool store(const Place& place, int line, int next, Block* blocks) {
    const Raw& raw = shared_.raw[place.warp];
    const uint2 scales = raw.scales[place.token];
    uint4 bytes[kBlocks + 1];
#pragma unroll
    for (int i = 0; i <= kBlocks; ++i) bytes[i] = raw.bytes[i][place.lane];
    __syncwarp();                                             // all have read bytes and scales
    PlainDequantiser plain({scales.x, scales.y & 0xffffff});  // the last byte means nothing
    const int chunk = kLaneChunks * place.share;
    begin_copies(place, next);
    // Two blocks' values in turn: registers that are being stored cannot be written yet.
    Chunk values[2][kLaneChunks];
    const auto leave = [&](int block) {
#pragma unroll
      for (int i = 0; i < kLaneChunks; ++i)
        *blocks[block].at(line, chunk + i) = values[block % 2][i];
    };
#pragma unroll
    for (int block = 0; block + 1 < kBlocks; ++block) {
      Chunk(&made)[kLaneChunks] = values[block % 2];
      plain(bytes[block], block, &made[0], &made[1]);
      for (Chunk& one : made) ptx::pin(one);
      if (block > 0) leave(block - 1);
    }
    *blocks[kBlocks - 1].at(line, place.share) = bytes[kBlocks - 1];
    *blocks[kBlocks - 1].at(line, kTokenLanes + place.share) = bytes[kBlocks];
    leave(kBlocks - 2);
    return plain.was_plain();
  }

  /// Tokens of bf16, tokens at odd addresses, and tokens that are not plain: each lane the chunks
  /// that it has stored before.
  __device__ void store_slowly(int share, int line, const Found& found, uint32_t flags, bool again,
                               Block* blocks) const {
    const uint32_t others = __ballot_sync(~0u, again);
    again = (others >> (line % Raw::kWarpTokens * kTokenLanes) & ((1u << kTokenLanes) - 1)) != 0;
    if ((flags & Found::kSlow) == 0 && !again) return;
    const uint8_t* const data = found.data[line];
    const Token place = {call_.layer.scopes[(flags & Found::kSecondScope) != 0].shape.format, data,
                         data + found.scales[line]};
#pragma unroll 1
    for (int i = 0; i < kBlocks * kLaneChunks; ++i) {
      const int block = i / kLaneChunks;
      const int own = is_bf16(block) ? share + kTokenLanes * (i % kLaneChunks)
                                     : kLaneChunks * share + i % kLaneChunks;
      const int chunk = block * kBlockChunks + own;
      *blocks[block].at(line, own) = read_token(place, chunk);
    }
  }

  const Call& call_;
  Shared& shared_;
  Ring<kFounds> found_;
  Ring<kBuffers> ring_;
  uint32_t number_ = 0;  // of the unit
  uint32_t flags_;       // of the piece that is being copied
};

}  // namespace steady::cuda::sm90::block
