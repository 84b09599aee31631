// SPDX-License-Identifier: Apache-2.0
// Slots in, tiles of de-quantised tokens in shared memory out: the work of one warpgroup.
#pragma once

#include "cuda/ptx/cluster.cuh"
#include "cuda/sm90/block/shared.cuh"
#include "cuda/sm90/tokens.cuh"

namespace steady::cuda::sm90::block {

/// A warp brings eight tokens of each of a tile's pieces. Four lanes share a token: each has
/// sixteen values of every block. The first blocks of a piece become bf16 in registers while there
/// is no room for them yet; bytes of the next piece are copied to shared memory as soon as those
/// before them have been read. But for tokens that are not plain, nothing is loaded from global
/// memory into registers: such loads would share scoreboards with others that take less time.
///
/// Of two blocks that share tokens each brings one piece of a tile, and copies it to the other one.
template <int kSharers>
class Producer {
 public:
  __device__ Producer(const Call& call, Shared& shared) : call_(call), shared_(shared) {}

  /// All tiles of a part that has some.
  __device__ void part() {
    ptx::wait_for_earlier_grids();
    found_.wait_full(shared_.found_full);  // then there is a unit
    begin_piece(place(), first_piece());
    begin_copies(place(), kEarly);
    begin_copies(place(), kLate);
    bool goes_on;
    do {
      const Unit& unit = shared_.units[number_++ % kUnits];
      for (int left = unit.tiles; left > 0; --left) {
#pragma unroll 1
        for (int i = 0; i < kOwnPieces; ++i) bring(first_piece() + i);
        hand_over();
        ring_.advance();
      }
      goes_on = !unit.ends_part;
    } while (goes_on);
    ptx::wait_copies();  // of what comes after the last tile
    if constexpr (kSharers > 1) wait_for_others();
  }

 private:
  static constexpr int kOwnPieces = kTilePieces / kSharers;
  static_assert(kSharers == 1 || kOwnPieces == 1, "a block brings all pieces or one");
  static constexpr int kTokenLanes = 4;
  static_assert(kTokenLanes * Raw::kWarpTokens == 32);
  static constexpr int kLaneChunks = kBlockChunks / kTokenLanes;  // of a block

  /// A token's blocks that are made early and late; the last one is bf16. Six early ones would take
  /// registers that are not there.
  enum When { kEarly, kLate };
  static constexpr int kEarlyBlocks = 5, kLateBlocks = kBlocks - kEarlyBlocks;
  __device__ static constexpr int first_block(When when) {
    return when == kEarly ? 0 : kEarlyBlocks;
  }
  __device__ static constexpr int count(When when) {
    return when == kEarly ? kEarlyBlocks : kLateBlocks;
  }
  __device__ static constexpr bool is_bf16(int block) { return block + 1 == kBlocks; }

  /// Of this thread; asked for once a piece, for there are no registers to keep it all.
  struct Place {
    int warp, lane;
    int token, share;  // of the warp's tokens and of that one's lanes

    /// The warp's of a tile in piece `number`, and the tile's token of which this lane has a share.
    __device__ int octet(int number) const { return number * kWarps + warp; }
    __device__ int line(int number) const { return octet(number) * Octet::kVectors + token; }
    /// Of a block, the first that this lane has.
    __device__ int chunk() const { return kLaneChunks * share; }
  };
  __device__ static Place place() {
    const int thread = ptx::thread_number(), lane = thread % 32;
    return {thread / 32 % kWarps, lane, lane / kTokenLanes, lane % kTokenLanes};
  }

  /// The first piece, or the only one, that this block brings; who shares has the rank's.
  __device__ static int first_piece() { return kSharers == 1 ? 0 : ptx::cluster_rank(); }

  /// Looks where this lane's token of piece `number` lies, in the tile that was found.
  __device__ void begin_piece(const Place& place, int number) {
    const Found& found = shared_.found[found_.index];
    const int line = place.line(number);
    data_ = found.data[line];
    scales_ = found.scales[line];
    flags_ = found.flags[line];
    if ((flags_ & (Found::kNamed | Found::kSlow)) != Found::kNamed) {
      data_ = kNoTokens[place.warp * Raw::kWarpTokens + place.token].bytes;
      scales_ = STEADY_FP8_DATA_BYTES;
    }
  }

  /// Begins to copy bytes of the token, with the first ones the scales: one group of copies.
  __device__ void begin_copies(const Place& place, When when) {
    Raw& raw = shared_.raw[place.warp];
    if (when == kEarly && place.share == 0)
      ptx::copy_async_8(&shared_.scales[place.warp][place.token], data_ + scales_);
    const uint8_t* const data = data_ + place.share * sizeof(uint4);
    // The block of bf16 has as many bytes as two.
    const int begin = first_block(when), end = begin + count(when) + (when == kLate);
#pragma unroll
    for (int i = begin; i < end; ++i)
      ptx::copy_async_16(&raw.bytes[i][place.lane], data + i * kTokenLanes * sizeof(uint4));
    ptx::commit_copies();
  }

  /// The bytes of all lanes of the warp whose copies began before those that began last are there.
  __device__ static void wait_for_bytes() {
    ptx::wait_copies_but<1>();
    __syncwarp();
  }

  /// Brings a piece, and begins to copy the next one into its place.
  __device__ void bring(int number) {
    wait_for_bytes();
    const Place place = this->place();
    const Raw& raw = shared_.raw[place.warp];
    const uint2 scales = shared_.scales[place.warp][place.token];
    PlainDequantiser plain({scales.x, scales.y & 0xffffff});  // the last byte means nothing
    Chunk early[kEarlyBlocks][kLaneChunks];
#pragma unroll
    for (int block = 0; block < kEarlyBlocks; ++block) {
      plain(raw.bytes[block][place.lane], block, &early[block][0], &early[block][1]);
      for (Chunk& one : early[block]) ptx::pin(one);
    }
    __syncwarp();  // all have read bytes and scales
    const Piece piece = {number, flags_, shared_.found[found_.index]};
    begin_next(place, number);
    ring_.wait_empty(shared_.tokens_empty[number]);
    note_named(place, piece);
    Octet& octet = shared_.tokens[ring_.index][place.octet(number)];
#pragma unroll
    for (int block = 0; block < kEarlyBlocks; ++block) {
#pragma unroll
      for (int i = 0; i < kLaneChunks; ++i)
        *octet.blocks[block].at(place.token, place.chunk() + i) = early[block][i];
    }
    mend(place, piece, kEarly, plain.was_plain(), octet);
    if constexpr (kSharers > 1) send(place, number, kEarly);
    wait_for_bytes();
    store_late(place, plain, octet);
    mend(place, piece, kLate, plain.was_plain(), octet);
  }

  /// What a piece's tokens are known by when the next one's are looked up.
  struct Piece {
    int number;
    uint32_t flags;  // of this lane's token
    const Found& found;
  };

  /// Begins to copy what is made early of the piece after `number`.
  __device__ void begin_next(const Place& place, int number) {
    const bool last = number + 1 == first_piece() + kOwnPieces;
    if (last) {
      found_.advance();
      found_.wait_full(shared_.found_full);
    }
    begin_piece(place, last ? first_piece() : number + 1);
    begin_copies(place, kEarly);
  }

  /// Tells this block's scorer which tokens are named, of a piece that another block brings, too.
  __device__ void note_named(const Place& place, const Piece& piece) {
    const auto note = [&](int number, uint32_t flags) {
      const uint32_t named = __ballot_sync(~0u, (flags & Found::kNamed) != 0);
      if (place.lane == 0) shared_.named[ring_.index][place.octet(number)] = named;
    };
    note(piece.number, piece.flags);
    if constexpr (kSharers > 1) {
      const int other = 1 - piece.number;
      note(other, piece.found.flags[place.line(other)]);
    }
  }

  /// Of eight lanes that store together no two have the same banks.
  __device__ void store_late(const Place& place, PlainDequantiser& plain, Octet& octet) {
    const Raw& raw = shared_.raw[place.warp];
    uint4 bytes[kLateBlocks + 1];
#pragma unroll
    for (int i = 0; i <= kLateBlocks; ++i) bytes[i] = raw.bytes[kEarlyBlocks + i][place.lane];
    __syncwarp();  // all have read them
    begin_copies(place, kLate);
    // Two blocks' values in turn: registers that are being stored cannot be written yet.
    Chunk values[2][kLaneChunks];
    const auto leave = [&](int block) {
#pragma unroll
      for (int i = 0; i < kLaneChunks; ++i)
        *octet.blocks[block].at(place.token, place.chunk() + i) = values[block % 2][i];
    };
#pragma unroll
    for (int block = kEarlyBlocks; !is_bf16(block); ++block) {
      Chunk(&made)[kLaneChunks] = values[block % 2];
      plain(bytes[block - kEarlyBlocks], block, &made[0], &made[1]);
      for (Chunk& one : made) ptx::pin(one);
      if (block > kEarlyBlocks) leave(block - 1);
    }
    auto& last = octet.blocks[kBlocks - 1];
    *last.at(place.token, place.share) = bytes[kLateBlocks - 1];
    *last.at(place.token, kTokenLanes + place.share) = bytes[kLateBlocks];
    leave(kBlocks - 2);
  }

  /// Stores anew what is not as most tokens are: tokens of bf16, tokens at odd addresses, and, for
  /// all four lanes that share one, tokens whose bytes or scales are not plain. Each lane stores
  /// the chunks that it has stored before.
  __device__ void mend(const Place& place, const Piece& piece, When when, bool was_plain,
                       Octet& octet) const {
    const bool slow = (piece.flags & Found::kSlow) != 0;
    if (!__any_sync(~0u, slow || !was_plain)) [[likely]]
      return;
    const uint32_t others = __ballot_sync(~0u, !was_plain);
    const bool again = (others >> (place.token * kTokenLanes) & ((1u << kTokenLanes) - 1)) != 0;
    if (slow || again) store_slowly(place, piece, when, octet);
  }

  __device__ void store_slowly(const Place& place, const Piece& piece, When when,
                               Octet& octet) const {
    const int line = place.line(piece.number);
    const uint8_t* const data = piece.found.data[line];
    const Token token = {call_.layer.scopes[(piece.flags & Found::kSecondScope) != 0].shape.format,
                         data, data + piece.found.scales[line]};
#pragma unroll 1
    for (int i = 0; i < count(when) * kLaneChunks; ++i) {
      const int block = first_block(when) + i / kLaneChunks, chunk = i % kLaneChunks;
      const int own = is_bf16(block) ? place.share + kTokenLanes * chunk : place.chunk() + chunk;
      *octet.blocks[block].at(place.token, own) = read_token(token, block * kBlockChunks + own);
    }
  }

  /// Copies some blocks of the warp's tokens of the piece to the other block of the cluster.
  __device__ void send(const Place& place, int number, When when) {
    ptx::fence_shared_writes();
    __syncwarp();
    if (place.lane != 0) return;
    const int other = 1 - number;
    const auto* const from =
        &shared_.tokens[ring_.index][place.octet(number)].blocks[first_block(when)];
    ptx::copy_to_block(ptx::in_block(from, other), from, count(when) * sizeof *from,
                       ptx::in_block(&shared_.tokens_full[ring_.index], other));
  }

  /// A tile, to this block's roles; of one that is shared the other block's piece is on its way.
  __device__ void hand_over() {
    uint64_t* const full = &shared_.tokens_full[ring_.index];
    if constexpr (kSharers > 1) {
      send(place(), first_piece(), kLate);
      if (ptx::thread_number() % kGroupThreads == 0) {
        ptx::arrive_and_expect(full, sizeof(Tile) / kTilePieces);
        return;
      }
    } else {
      ptx::fence_shared_writes();
    }
    ptx::arrive(full);
  }

  /// Until the other block has handed the last tiles back here.
  __device__ void wait_for_others() {
    for (uint32_t i = 0; i < kBuffers; ++i, ring_.advance())
      ring_.wait_empty(shared_.tokens_empty[first_piece()]);
  }

  const Call& call_;
  Shared& shared_;
  Ring<kFounds> found_;
  Ring<kBuffers> ring_;
  uint32_t number_ = 0;  // of the unit
  // This lane's token of the piece that is being copied: where it lies, from there its scales.
  const uint8_t* data_;
  int32_t scales_;
  uint32_t flags_;
};

}  // namespace steady::cuda::sm90::block
