// SPDX-License-Identifier: Apache-2.0
// Slots in, tiles of de-quantised tokens in shared memory out: the work of one warpgroup.
#pragma once

#include "cuda/dequantise.cuh"
#include "cuda/ptx/barrier.cuh"
#include "cuda/sm90/shared.cuh"

namespace steady::cuda::sm90 {

inline constexpr int kLineBytes = 128;  // of the L2 cache
static_assert(STEADY_FP8_SCALE_GROUP == kBlockDims && STEADY_NOPE_DIM == (kBlocks - 1) * kBlockDims,
              "a block of values has one scale, and the last one is bf16");

/// What is fetched where no slot names a token: zeros, which any scale leaves zeros.
alignas(16) __device__ const uint8_t kNoToken[STEADY_FP8_TOKEN_BYTES] = {};

/// A warp brings pieces of eight tokens, two of each tile. Four lanes share a token: each has sixteen
/// values of every block. While a piece is turned into bf16, the bytes of the next one take its
/// place in registers. Slots are read and looked up for a batch of pieces at once, a token for each
/// lane, and a batch's bytes are called into the L2 cache. What is needed once a batch lies in
/// shared memory, because registers are short.
class Producer {
 public:
  __device__ Producer(const LayerCall& call, const Divisors& page_tokens, Shared& shared)
      : call_(call), page_tokens_(page_tokens), shared_(shared) {}

  /// All tiles of this part.
  __device__ void part(const PartRange& range) {
    if (lane() == 0) shared_.ahead[warp()] = TileCursor(call_, range);
    __syncwarp();
    read_slots();
    Piece piece;
    const Source source = find_next(&piece);
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) fetch_block(source, block, &piece);
    ptx::load(&piece.scales, source.scales);
    prefetch_batch();
    read_slots();
    Ring<kBuffers> ring;
    while (piece.named_and_slow != kNothing) {
      ring.wait_empty(shared_.tokens_empty);
#pragma unroll 1
      for (int number = 0; number < kTilePieces; ++number) bring(number, ring.index, &piece);
      ptx::fence_shared_writes();
      hand_over(&shared_.tokens_full[ring.index]);
      ring.advance();
    }
  }

 private:
  static constexpr int kTokenLanes = 4, kPieceTokens = 32 / kTokenLanes;
  static constexpr int kTilePieces = kTokens / kPieceTokens / kWarps;  // of a warp
  static constexpr int kBatchPieces = 32 / kPieceTokens, kBatchTiles = kBatchPieces / kTilePieces;
  static_assert(kNotes >= 2 * kBatchTiles + kBuffers + 1);
  static constexpr int kLaneChunks = kBlockChunks / kTokenLanes;  // of a block
  static constexpr uint32_t kPieceMask = (1u << kPieceTokens) - 1;
  /// Instead of a piece's tokens, after the last piece.
  static constexpr uint32_t kNothing = ~0u;

  /// What a lane has of a piece: its share of a token.
  struct Piece {
    uint32_t named_and_slow;  // a bit for each token, and one for each in the upper half
    int32_t slot;
    uint2 scales;
    uint4 bytes[kBlocks + 1];  // the last block is bf16, and so twice as long
  };

  __device__ static int warp() { return ptx::thread_number() / 32 % kWarps; }
  __device__ static int lane() { return ptx::thread_number() % 32; }
  /// Of a token's lanes.
  __device__ static int share() { return lane() % kTokenLanes; }
  /// Of a piece's tokens, the one that this lane shares.
  __device__ static int token() { return lane() / kTokenLanes; }
  /// The first token of a tile that piece `number` of this warp has.
  __device__ static int first_token(int number) {
    return (number * kWarps + warp()) * kPieceTokens;
  }

  /// Begins to read the slots of the next batch: all lanes at once, so that none waits for
  /// another's.
  __device__ void read_slots() {
    TileCursor ahead = shared_.ahead[warp()];
    __syncwarp();
    Position position = {};
    coming_ = 0;
#pragma unroll 1
    for (; coming_ < kBatchTiles && ahead.valid(); ++coming_, ahead.advance(call_)) {
      const int piece = lane() / kPieceTokens;
      if (piece / kTilePieces == coming_) {
        position =
            position_of(call_, ahead, first_token(piece % kTilePieces) + lane() % kPieceTokens);
      }
      if (warp() == 0 && lane() == 0)
        shared_.notes[noted_ % kNotes] = ahead.note(call_, own_part());
      ++noted_;
    }
    if (lane() == 0) shared_.ahead[warp()] = ahead;
    there_in_ = position.slot == nullptr ? kNowhere : position.scope;
    if (position.slot != nullptr) ptx::copy_async_4(&shared_.slots[warp()][lane()], position.slot);
    ptx::commit_copies();
  }

  /// Looks up the batch whose slots were read.
  __device__ void find_batch() {
    ptx::wait_copies();
    Source source = {kNoToken, kNoToken + STEADY_FP8_DATA_BYTES};
    const int32_t slot = there_in_ != kNowhere ? shared_.slots[warp()][lane()] : kHole;
    bool named = false, slow = false;
    const int scope = there_in_ == 1;
    const Pool& pool = call_.layer.scopes[scope];
    if (slot != kHole && pool.has(slot)) {
      const Token place = pool.token(slot, page_tokens_.of_scope[scope].divide(slot));
      const bool aligned = (reinterpret_cast<uintptr_t>(place.data) % sizeof(uint4) |
                            reinterpret_cast<uintptr_t>(place.scales) % sizeof(uint2)) == 0;
      named = true;
      slow = pool.shape.format != STEADY_CACHE_FP8 || !aligned;
      if (!slow) source = {place.data, place.scales};
    }
    shared_.found[warp()][lane()] = source;
    // Of the scope a bit is enough, which no slot has.
    shared_.found_slots[warp()][lane()] = scope == 0 ? slot : slot | INT32_MIN;
    __syncwarp();
    found_named_ = __ballot_sync(~0u, named);
    found_slow_ = __ballot_sync(~0u, slow);
    found_pieces_ = coming_ * kTilePieces;
    next_ = 0;
  }

  /// Calls the batch into the L2 cache, but for its first piece, which is fetched at once.
  __device__ void prefetch_batch() {
    if (lane() < kPieceTokens) return;
    const Source source = shared_.found[warp()][lane()];
#pragma unroll
    for (int i = 0; i < STEADY_FP8_DATA_BYTES; i += kLineBytes) ptx::prefetch(source.data + i);
    ptx::prefetch(source.data + STEADY_FP8_DATA_BYTES - 1);
    ptx::prefetch(source.scales);
  }

  /// What is known of the next piece.
  __device__ Source find_next(Piece* piece) {
    const bool all_found = next_ == found_pieces_;
    if (all_found) find_batch();
    const int first = next_ * kPieceTokens, from = first + token();
    piece->named_and_slow = kNothing;
    if (next_ < found_pieces_) {
      piece->named_and_slow = (found_named_ >> first & kPieceMask) |
                              (found_slow_ >> first & kPieceMask) << 16;
      ++next_;
    }
    piece->slot = shared_.found_slots[warp()][from];
    const Source found = shared_.found[warp()][from];
    return {found.data + share() * sizeof(uint4), found.scales};
  }

  /// The last block is bf16.
  static constexpr bool is_bf16(int block) { return block + 1 == kBlocks; }
  __device__ static void fetch_block(const Source& source, int block, Piece* piece) {
    const uint8_t* from = source.data + block * kBlockDims;
    ptx::load(&piece->bytes[block], from);
    if (is_bf16(block)) ptx::load(&piece->bytes[block + 1], from + kTokenLanes * sizeof(uint4));
  }

  /// Brings a piece, and fetches the next one into its place.
  __device__ void bring(int number, uint32_t buffer, Piece* piece) {
    const uint32_t named_and_slow = ptx::take(piece->named_and_slow);
    const int32_t slot = static_cast<int32_t>(ptx::take(piece->slot));
    const uint2 scales = {ptx::take(piece->scales.x), ptx::take(piece->scales.y)};
    const bool looks_up = next_ == found_pieces_;
    const Source source = find_next(piece);
    ptx::load(&piece->scales, source.scales);
    Block* blocks = shared_.tokens[buffer];
    const int line = first_token(number) + token();
    if (lane() == 0) {
      reinterpret_cast<uint8_t*>(&shared_.named[buffer])[first_token(number) / kPieceTokens] =
          static_cast<uint8_t>(named_and_slow);
    }
    const bool plain = store(line, scales, source, piece, blocks);
    if (looks_up) {
      prefetch_batch();
      read_slots();
    }
    const uint32_t slow = named_and_slow >> 16;
    if (slow != 0 || __any_sync(~0u, !plain)) [[unlikely]]
      store_slowly(line, slot, (slow >> token() & 1) != 0, !plain, blocks);
  }

  /// Whether the values could be made in the plain way. Of eight lanes that store together no two
  /// have the same banks.
  __device__ static bool store(int line, const uint2& scales, const Source& source, Piece* piece,
                               Block* blocks) {
    PlainDequantiser plain({scales.x, scales.y & 0xffffff});  // the last byte means nothing
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const uint4 bytes = piece->bytes[block];
      if (is_bf16(block)) {
        *blocks[block].at(line, share()) = bytes;
        *blocks[block].at(line, kTokenLanes + share()) = piece->bytes[block + 1];
      } else {
        plain(bytes, block, blocks[block].at(line, kLaneChunks * share()),
              blocks[block].at(line, kLaneChunks * share() + 1));
      }
      fetch_block(source, block, piece);
      __syncwarp();  // otherwise the compiler collects the loads at the end
    }
    return plain.was_plain();
  }

  /// Tokens of bf16, tokens at odd addresses, and tokens that are not plain: each lane the chunks
  /// that it has stored before.
  __device__ void store_slowly(int line, int32_t slot, bool slow, bool again,
                               Block* blocks) const {
    const uint32_t others = __ballot_sync(~0u, again);
    again = (others >> (lane() - share()) & ((1u << kTokenLanes) - 1)) != 0;
    if (!slow && !again) return;
    const Pool& pool = call_.layer.scopes[slot < 0 ? 1 : 0];
    const Token place = pool.token(slot & INT32_MAX);
    const bool fp8 = pool.shape.format == STEADY_CACHE_FP8;
#pragma unroll 1
    for (int i = 0; i < kBlocks * kLaneChunks; ++i) {
      const int block = i / kLaneChunks;
      const int own = is_bf16(block) ? share() + kTokenLanes * (i % kLaneChunks)
                                     : kLaneChunks * share() + i % kLaneChunks;
      const int chunk = block * kBlockChunks + own;
      *blocks[block].at(line, own) =
          fp8 ? read_fp8_chunk(place, chunk) : read_bytes(place.data + chunk * sizeof(Chunk));
    }
  }

  __device__ static Chunk read_fp8_chunk(const Token& place, int chunk) {
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

  static constexpr int kNowhere = -1;

  const LayerCall& call_;
  const Divisors& page_tokens_;
  Shared& shared_;
  uint32_t noted_ = 0;   // tiles whose slots have been read
  // The batch whose slots are on their way: its tiles, and the scope of this lane's token.
  int coming_ = 0, there_in_ = kNowhere;
  // The batch that was looked up: a bit for each token; its pieces, and the next one of them.
  uint32_t found_named_ = 0, found_slow_ = 0;
  int found_pieces_ = 0, next_ = 0;
};

}  // namespace steady::cuda::sm90
