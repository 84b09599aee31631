// SPDX-License-Identifier: Apache-2.0
// A plan and slots in, tiles and pieces of their de-quantised tokens in shared memory out: all
// values of the tiles that this block scores, its own share of the values of the others. The work
// of two warpgroups. The other roles know nothing of plans.
#pragma once

#include "cuda/dequantise.cuh"
#include "cuda/ptx/barrier.cuh"
#include "cuda/sm90/shared.cuh"
#include "cuda/sm90/unit_cursor.cuh"

namespace steady::cuda::sm90 {

inline constexpr int kLineBytes = 128;  // of the L2 cache
static_assert(STEADY_FP8_SCALE_GROUP == kBlockDims && STEADY_NOPE_DIM == (kBlocks - 1) * kBlockDims,
              "a block of values has one scale, and the last one is bf16");

/// What is fetched where no slot names a token: zeros, which any scale leaves zeros.
alignas(16) __device__ const uint8_t kNoToken[STEADY_FP8_TOKEN_BYTES] = {};

/// Each warp brings eight tokens of every tile, four lanes a token: 16 bytes of each block of its
/// values a lane. While a piece is turned into bf16, the bytes of a later one take their place in
/// registers. Slots are read for four tiles at once, a token for each lane, and so early that their
/// bytes can be called into the L2 cache before they are fetched. Which pieces follow is worked out
/// for a round at once, a piece for each lane.
template <class S>
class Producer {
 public:
  __device__ Producer(const LayerCall& call, const Divisors& page_tokens, const PartRange& range,
                      int rank, Shared<S>& shared)
      : call_(call),
        page_tokens_(page_tokens),
        shared_(shared),
        own_(shared.producers[warp()]),
        rank_(rank),
        chunk_at_(line() * kBlockChunks + (2 * share() ^ token())),
        ahead_(call, range) {}

  /// All tiles of this part.
  __device__ void part() {
    coming_.slots = 0;
    later_.slots = 1;
    read_slots(&coming_);
    read_slots(&later_);
    ptx::wait_copies();
    for (uint32_t turn = 1;; ++turn) {
#pragma unroll 1
      while (listed_ == fetched_ && coming_.tiles > 0) {
        find();
        look_ahead();
      }
      fetch();
      if (turn < S::kAhead) continue;
      ptx::wait_copies_but<S::kAhead - 1>();
      if (brought_ == fetched_) return;
      bring();
    }
  }

 private:
  static constexpr int kLanesAToken = 32 / kWarpTokens;
  static constexpr int kBatchTiles = 32 / kWarpTokens;

  /// A few tiles of a unit, a token for each lane.
  struct Batch {
    int tiles = 0;
    int tiles_done, tiles_left;  // of the unit, as UnitCursor has them
    bool compressed;
    int slots;         // which ones of the warp's
    uint32_t read_at;  // pieces that were fetched before these slots
  };

  /// Where a lane's token lies.
  struct Source {
    Place place;
    bool named, slow, bf16;
  };

  __device__ static int warp() {  // of all producers
    return static_cast<int>(threadIdx.x - 2 * kGroupThreads) / 32;
  }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  /// Of a token's lanes.
  __device__ static int share() { return lane() % kLanesAToken; }
  /// Of the warp's tokens, the one that this lane shares.
  __device__ static int token() { return lane() / kLanesAToken; }
  /// Where the tile has it.
  __device__ static int line() { return warp() * kWarpTokens + token(); }

  /// Begins to read the slots of the next few tiles, and describes these to the other roles.
  __device__ void read_slots(Batch* batch) {
    batch->tiles = 0;
    if (over_) return;
    over_ = !ahead_.valid();
    const int tiles = over_ ? 1 : min(kBatchTiles, ahead_.tiles_left());
    const int tile = lane() / kWarpTokens;
    auto described = described_;
    described.advance(min(tile, tiles - 1));
    described.wait_empty(shared_.tiles_empty);
    if (over_) {
      if (warp() == 0 && lane() == 0) shared_.tiles[described_.index].there = false;
      hand_over(&shared_.tiles_full[described_.index]);
      return;
    }
    batch->tiles = tiles;
    batch->tiles_done = ahead_.tiles_done();
    batch->tiles_left = ahead_.tiles_left();
    batch->read_at = fetched_;
    if (warp() == 0 && lane() % kWarpTokens == 0 && tile < tiles)
      describe(*batch, tile, &shared_.tiles[described.index]);
    int position = ahead_.begin() + tile * kTokens + warp() * kWarpTokens + lane() % kWarpTokens;
    batch->compressed = position >= ahead_.window();
    int32_t* const slot = &own_.slots[batch->slots][lane()];
    *slot = kHole;
    if (position < ahead_.end()) {
      const Pool& pool = call_.layer.scopes[batch->compressed];
      if (batch->compressed) position -= ahead_.window();
      ptx::copy_async_4(slot, pool.slots + ahead_.row() * pool.slots_stride + position);
    }
    if (batch->tiles_done == 0) prefetch_queries();
    described_.advance(tiles);
    ahead_.advance(tiles);
  }

  __device__ void describe(const Batch& batch, int number, Tile* tile) const {
    const int done = batch.tiles_done + number;
    tile->there = true;
    tile->first_of_unit = done == 0;
    tile->last_of_unit = number + 1 == batch.tiles_left;
    tile->turn = static_cast<uint8_t>(done % S::kCluster);
    tile->round_tiles = round_tiles(batch, number);
    tile->row = ahead_.row();
    tile->place = ahead_.place(own_part<S>());
  }

  /// Of the round that the batch's tile `number` belongs to.
  __device__ static uint8_t round_tiles(const Batch& batch, int number) {
    const int turn = (batch.tiles_done + number) % S::kCluster;
    return static_cast<uint8_t>(min(S::kCluster, batch.tiles_left - number + turn));
  }

  __device__ void prefetch_queries() {
    constexpr int kLines = kHeadDim * 2 / kLineBytes;
    const Layer& layer = call_.layer;
    const uint16_t* q =
        layer.q + row_offset(layer.q_strides, call_.queries, ahead_.row(), first_head(call_));
#pragma unroll 1
    for (int i = 32 * warp() + lane(); i < heads_here(call_) * kLines; i += 32 * kProducerWarps)
      ptx::prefetch(q + i / kLines * layer.q_strides.head + i % kLines * (kLineBytes / 2));
  }

  __device__ Source source_of(const Batch& batch) const {
    const Pool& pool = call_.layer.scopes[batch.compressed];
    const int32_t slot = own_.slots[batch.slots][lane()];
    if (slot == kHole || !pool.has(slot))
      return {{kNoToken, kNoToken + STEADY_FP8_DATA_BYTES}, false, false, false};
    const Token token = pool.token(slot, page_tokens_.of_scope[batch.compressed].divide(slot));
    const bool aligned = (reinterpret_cast<uintptr_t>(token.data) % sizeof(uint4) |
                          reinterpret_cast<uintptr_t>(token.scales) % sizeof(uint32_t)) == 0;
    const bool bf16 = pool.shape.format != STEADY_CACHE_FP8;
    return {{token.data, token.scales}, true, bf16 || !aligned, bf16};
  }

  /// Finds out where the tokens of the next batch are, and lists the pieces of rounds that are
  /// found.
  __device__ void find() {
    const Source source = source_of(coming_);
    const uint32_t tile = found_tiles_ + lane() / kWarpTokens;
    own_.places[tile % S::kPlaces][lane() % kWarpTokens] = source.place;
    const uint32_t named = __ballot_sync(~0u, source.named);
    const uint32_t slow = __ballot_sync(~0u, source.slow);
    const uint32_t bf16 = __ballot_sync(~0u, source.bf16);
    if (lane() < coming_.tiles) {
      const auto own = [](uint32_t mask) {
        return static_cast<uint8_t>(mask >> kWarpTokens * lane());
      };
      own_.slow[(found_tiles_ + lane()) % S::kPlaces] = {own(slow), own(bf16)};
      shared_.tiles[(found_tiles_ + lane()) % kTiles].named[warp()] = own(named);
    }
    __syncwarp();
    if (lane() < coming_.tiles) ptx::arrive(&shared_.tiles_full[(found_tiles_ + lane()) % kTiles]);
    const int end = coming_.tiles_done + coming_.tiles;
#pragma unroll 1
    for (int done = coming_.tiles_done / S::kCluster * S::kCluster; done < end;
         done += S::kCluster) {
      const int tiles = min(S::kCluster, coming_.tiles_done + coming_.tiles_left - done);
      if (done + tiles > end) break;
      list_round(found_tiles_ + static_cast<uint32_t>(done - coming_.tiles_done), tiles);
    }
    found_tiles_ += coming_.tiles;
    __syncwarp();
  }

  /// The pieces of a round, a lane each.
  __device__ void list_round(uint32_t first, int tiles) {
    const int number = lane(), pieces = round_pieces<S>(rank_, tiles);
    const bool own = rank_ < tiles && number < S::kTilePieces;
    const int other = rank_ < tiles ? number - S::kTilePieces : number;
    int turn = other / S::kOwnPieces;
    if (rank_ < tiles && turn >= rank_) ++turn;
    if (own) turn = rank_;
    const int piece = own ? number : rank_ * S::kOwnPieces + other % S::kOwnPieces;
    if (number < pieces) {
      const uint32_t place = (first + turn) % S::kPlaces;
      own_.pieces[(listed_ + number) % kListed] = {
          own_.slow[place].slow != 0, piece + 1 == S::kTilePieces, static_cast<uint8_t>(place),
          static_cast<uint32_t>(piece)};
    }
    listed_ += pieces;
  }

  /// Calls the bytes of the batch after it into the L2 cache, and begins to read another one's
  /// slots.
  __device__ void look_ahead() {
    const int free = coming_.slots;
    coming_ = later_;
    later_.slots = free;
    // Otherwise they came with the pieces since then.
    if (fetched_ - coming_.read_at < S::kAhead) ptx::wait_copies();
    read_slots(&later_);
    const Source source = source_of(coming_);
    if (coming_.tiles == 0 || !source.named || source.bf16) return;
    const bool own = (coming_.tiles_done + lane() / kWarpTokens) % S::kCluster == rank_;
    const int first = own ? 0 : rank_ * S::kOwnDims;
    const int end = own || rank_ == S::kCluster - 1 ? STEADY_FP8_DATA_BYTES : first + S::kOwnDims;
    ptx::prefetch(source.place.scales);
#pragma unroll 1
    for (int at = first; at < end; at += kLineBytes) ptx::prefetch(source.place.data + at);
    ptx::prefetch(source.place.data + end - 1);
  }

  /// Begins to fetch the bytes of the next piece, if there is one.
  __device__ void fetch() {
    if (fetched_ != listed_) {
      const Piece piece = own_.pieces[fetched_ % kListed];
      const uint32_t ahead = fetched_ % S::kAhead;
      Place place = own_.places[piece.place][token()];
      if (piece.slow && (own_.slow[piece.place].slow >> token() & 1) != 0) [[unlikely]]
        place = {kNoToken, kNoToken + STEADY_FP8_DATA_BYTES};
      const uint8_t* data = place.data + piece.number * S::kPieceDims + sizeof(Chunk) * share();
      Chunk* to = &own_.bytes[ahead][0][lane()];
#pragma unroll
      for (int i = 0; i < S::kPieceBlocks; ++i) {
        if (i + 1 == S::kPieceBlocks && piece.ends) {
          data += sizeof(Chunk) * share();
          ptx::copy_async_16(to + 32 * (i + 1), data + i * kBlockDims + sizeof(Chunk));
        }
        ptx::copy_async_16(to + 32 * i, data + i * kBlockDims);
      }
      ptx::copy_async_4(&own_.scales[ahead][lane()],
                        place.scales + piece.number * S::kPieceBlocks / 4 * 4);
      ++fetched_;
    }
    ptx::commit_copies();
  }

  /// Brings the piece whose bytes came first.
  __device__ void bring() {
    const Piece piece = own_.pieces[brought_ % kListed];
    const uint32_t ahead = brought_ % S::kAhead;
    ++brought_;
    // The last block's byte among the scales means nothing.
    constexpr uint32_t kOwn = S::kPieceBlocks == 1 ? 0xff : 0xffff;
    const uint32_t scales =
        own_.scales[ahead][lane()] >> 8 * (piece.number * S::kPieceBlocks % 4) & kOwn;
    PlainDequantiser plain(piece.ends ? scales & kOwn >> 8 : scales);
    const Chunk* const bytes = &own_.bytes[ahead][0][lane()];
    ring_.wait_empty(shared_.tokens_empty);
    Block* const blocks = shared_.tokens[ring_.index];
#pragma unroll
    for (int i = 0; i < S::kPieceBlocks; ++i) {
      // Of eight lanes that store together no two have the same banks.
      Chunk* const first = &blocks[i].lines[0][0] + chunk_at_;
      Chunk* const second = &blocks[i].lines[0][0] + (chunk_at_ ^ 1);
      if (i + 1 == S::kPieceBlocks && piece.ends) {
        *first = bytes[32 * i];
        *second = bytes[32 * (i + 1)];
      } else {
        Chunk values[2];
        plain(bytes[32 * i], i, &values[0], &values[1]);
        *first = values[0];
        *second = values[1];
      }
    }
    const bool again = !plain.was_plain();
    if (piece.slow || __any_sync(~0u, again)) [[unlikely]]
      store_slowly(piece, again, blocks);
    ptx::fence_shared_writes();
    hand_over(&shared_.tokens_full[ring_.index]);
    ring_.advance();
  }

  /// Tokens of bf16, tokens at odd addresses, and tokens that are not plain: each lane the chunks
  /// that it has stored before.
  __device__ void store_slowly(const Piece& piece, bool again, Block* blocks) const {
    const uint32_t others = __ballot_sync(~0u, again);
    again = (others >> (lane() - share()) & ((1u << kLanesAToken) - 1)) != 0;
    const SlowTokens& slow = own_.slow[piece.place];
    if ((slow.slow >> token() & 1) == 0 && !again) return;
    const Place place = own_.places[piece.place][token()];
    const bool bf16 = (slow.bf16 >> token() & 1) != 0;
#pragma unroll 1
    for (int i = 0; i < 2 * S::kPieceBlocks; ++i) {
      const int own = 2 * share() + i % 2,
                block = static_cast<int>(piece.number) * S::kPieceBlocks + i / 2;
      const int at = block * kBlockChunks + own;
      const Chunk chunk =
          bf16 ? read_bytes(place.data + at * sizeof(Chunk)) : read_fp8_chunk(place, at);
      *blocks[i / 2].at(line(), own) = block < kBlocks - 1 ? interleave(chunk) : chunk;
    }
  }

  __device__ static Chunk read_fp8_chunk(const Place& place, int chunk) {
    constexpr int kNopeHalves = STEADY_NOPE_DIM / kChunkDims;
    if (chunk >= kNopeHalves) {
      return read_bytes(place.data + STEADY_NOPE_DIM + (chunk - kNopeHalves) * sizeof(Chunk));
    }
    const uint8_t* bytes = place.data + chunk * kChunkDims;
    const uint32_t words[] = {read_word(bytes), read_word(bytes + 4)};
    uint32_t values[4];
    dequantise(words, place.scales[chunk * kChunkDims / STEADY_FP8_SCALE_GROUP], values);
    return {values[0], values[1], values[2], values[3]};
  }

  __device__ static uint32_t read_word(const uint8_t* bytes) {
    return bytes[0] | bytes[1] << 8 | bytes[2] << 16 | static_cast<uint32_t>(bytes[3]) << 24;
  }

  __device__ static Chunk read_bytes(const uint8_t* bytes) {
    if (reinterpret_cast<uintptr_t>(bytes) % sizeof(Chunk) == 0)
      return *reinterpret_cast<const Chunk*>(bytes);
    return {read_word(bytes), read_word(bytes + 4), read_word(bytes + 8), read_word(bytes + 12)};
  }

  const LayerCall& call_;
  const Divisors& page_tokens_;
  Shared<S>& shared_;
  ProducerWarp<S>& own_;
  const int rank_;
  const int chunk_at_;  // of a block, that this lane stores first
  // The unit whose slots are read next, and two batches whose slots are on their way.
  UnitCursor ahead_;
  Ring<kTiles> described_;
  bool over_ = false;
  Batch coming_, later_;
  uint32_t found_tiles_ = 0, listed_ = 0, fetched_ = 0, brought_ = 0;  // the latter three: pieces
  Ring<S::kBuffers> ring_;
};

}  // namespace steady::cuda::sm90
