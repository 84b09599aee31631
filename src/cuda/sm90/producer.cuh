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
/// lane, and a batch's bytes are called into the L2 cache. Slots and scales come through shared
/// memory: a register that is carried into the next turn would be copied there, and the copy waits
/// for what is loaded.
class Producer {
 public:
  __device__ Producer(const LayerCall& call, const Divisors& page_tokens, const PartRange& range,
                      Shared& shared)
      : call_(call), page_tokens_(page_tokens), shared_(shared), ahead_(call, range) {}

  /// All tiles of this part.
  __device__ void part() {
    read_slots();
    ptx::wait_copies();
    Piece piece;
    const Source source = find_next(&piece);
    fetch_scales(source);
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) fetch_block(source, block, &piece);
    read_slots_ahead();
    Ring<kBuffers> ring;
    while (piece.there) {
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
  static constexpr int kLaneChunks = kBlockChunks / kTokenLanes;  // of a block
  static constexpr uint32_t kPieceMask = (1u << kPieceTokens) - 1;

  /// What a lane has of a piece: its share of a token.
  struct Piece {
    bool there;
    uint8_t named, slow;  // a bit for each token
    uint8_t scope;
    int32_t slot;
    uint4 bytes[kBlocks + 1];  // the last block is bf16, and so twice as long
  };
  /// Where it comes from.
  struct Source {
    const uint8_t *data, *scales;
  };

  __device__ static int warp() { return static_cast<int>(threadIdx.x) / 32 % kWarps; }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
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
    Position position = {};
    coming_ = 0;
#pragma unroll 1
    for (; coming_ < kBatchTiles && ahead_.valid(); ++coming_, ahead_.advance()) {
      const int piece = lane() / kPieceTokens;
      if (piece / kTilePieces == coming_) {
        position = position_of(call_, ahead_,
                               first_token(piece % kTilePieces) + lane() % kPieceTokens);
      }
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
    found_ = {kNoToken, kNoToken + STEADY_FP8_DATA_BYTES};
    found_slot_ = there_ ? shared_.slots[warp()][lane()] : kHole;
    bool named = false, slow = false;
    const Pool& pool = call_.layer.scopes[scope_];
    if (found_slot_ != kHole && pool.has(found_slot_)) {
      const Token place =
          pool.token(found_slot_, page_tokens_.of_scope[scope_].divide(found_slot_));
      const bool aligned = (reinterpret_cast<uintptr_t>(place.data) % sizeof(uint4) |
                            reinterpret_cast<uintptr_t>(place.scales) % sizeof(uint2)) == 0;
      named = true;
      slow = pool.shape.format != STEADY_CACHE_FP8 || !aligned;
      if (!slow) {
        found_ = {place.data, place.scales};
#pragma unroll
        for (int i = 0; i < STEADY_FP8_DATA_BYTES; i += kLineBytes) ptx::prefetch(found_.data + i);
        ptx::prefetch(found_.data + STEADY_FP8_DATA_BYTES - 1);
        ptx::prefetch(found_.scales);
      }
    }
    found_named_ = __ballot_sync(~0u, named);
    found_slow_ = __ballot_sync(~0u, slow);
    found_scopes_ = __ballot_sync(~0u, scope_ != 0);
    found_pieces_ = coming_ * kTilePieces;
    next_ = 0;
    looked_up_ = true;
  }

  /// What is known of the next piece.
  __device__ Source find_next(Piece* piece) {
    if (next_ == found_pieces_) find_batch();
    const int first = next_ * kPieceTokens, from = first + token();
    piece->there = next_ < found_pieces_;
    piece->named = static_cast<uint8_t>(found_named_ >> first & kPieceMask);
    piece->slow = static_cast<uint8_t>(found_slow_ >> first & kPieceMask);
    piece->scope = static_cast<uint8_t>(found_scopes_ >> from & 1);
    piece->slot = __shfl_sync(~0u, found_slot_, from);
    const Source source = {of_lane(from, found_.data) + share() * sizeof(uint4),
                           of_lane(from, found_.scales)};
    if (piece->there) ++next_;
    return source;
  }

  __device__ static const uint8_t* of_lane(int lane, const uint8_t* pointer) {
    const auto address = static_cast<unsigned long long>(reinterpret_cast<uintptr_t>(pointer));
    return reinterpret_cast<const uint8_t*>(__shfl_sync(~0u, address, lane));
  }

  /// The last block is bf16.
  static constexpr bool is_bf16(int block) { return block + 1 == kBlocks; }
  __device__ static void fetch_block(const Source& source, int block, Piece* piece) {
    const uint8_t* from = source.data + block * kBlockDims;
    ptx::load(&piece->bytes[block], from);
    if (is_bf16(block)) ptx::load(&piece->bytes[block + 1], from + kTokenLanes * sizeof(uint4));
  }

  __device__ void fetch_scales(const Source& source) {
    if (share() == 0) ptx::copy_async_8(&shared_.scales[warp()][token()], source.scales);
    ptx::commit_copies();
  }

  /// Brings a piece, and fetches the next one into its place.
  __device__ void bring(int number, uint32_t buffer, Piece* piece) {
    const uint8_t named = piece->named, slow = piece->slow, scope = piece->scope;
    const int32_t slot = piece->slot;
    ptx::wait_copies_but<1>();  // but for the slots
    __syncwarp();
    const uint2 scales = shared_.scales[warp()][token()];
    __syncwarp();
    const Source source = find_next(piece);
    fetch_scales(source);
    Block* blocks = shared_.tokens[buffer];
    const int line = first_token(number) + token();
    if (lane() == 0)
      reinterpret_cast<uint8_t*>(&shared_.named[buffer])[first_token(number) / kPieceTokens] = named;
    const bool plain = store(line, scales, source, piece, blocks);
    read_slots_ahead();
    if (slow != 0 || __any_sync(~0u, !plain)) [[unlikely]]
      store_slowly(line, scope, slot, (slow >> token() & 1) != 0, !plain, blocks);
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
  __device__ void store_slowly(int line, int scope, int32_t slot, bool slow, bool again,
                               Block* blocks) const {
    const uint32_t others = __ballot_sync(~0u, again);
    again = (others >> (lane() - share()) & ((1u << kTokenLanes) - 1)) != 0;
    if (!slow && !again) return;
    const Pool& pool = call_.layer.scopes[scope];
    const Token place = pool.token(slot);
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

  const LayerCall& call_;
  const Divisors& page_tokens_;
  Shared& shared_;
  // The batch whose slots are on their way: a token of a tile for each lane.
  TileCursor ahead_;
  bool there_, looked_up_ = false;
  int scope_, coming_;
  // The batch that was looked up, and its next piece.
  Source found_;
  int32_t found_slot_;
  uint32_t found_named_, found_slow_, found_scopes_;
  int found_pieces_ = 0, next_ = 0;
};

}  // namespace steady::cuda::sm90
