// SPDX-License-Identifier: Apache-2.0
// Slots in, tiles of de-quantised tokens in shared memory out: the work of one warpgroup.
#pragma once

#include "cuda/dequantise.cuh"
#include "cuda/ptx/barrier.cuh"
#include "cuda/sm90/shared.cuh"

namespace steady::cuda::sm90 {

static_assert(STEADY_FP8_SCALE_GROUP == kBlockDims && STEADY_NOPE_DIM == (kBlocks - 1) * kBlockDims,
              "a block of values has one scale, and the last one is bf16");

/// What is fetched where no slot names a token: zeros, which any scale leaves zeros; and where there
/// is no slot. Addresses instead of conditions, because at a branch into code that loads the
/// compiler waits for all that is under way.
alignas(16) __device__ const uint8_t kNoToken[STEADY_FP8_TOKEN_BYTES] = {};
__device__ const int32_t kNoSlot = kHole;

/// A warp brings pieces of eight tokens, two of each tile. Four lanes share a token: each has sixteen
/// values of every block. While a piece is turned into bf16, the bytes of the next one take its
/// place in registers, and the slots of the one after that are read.
class Producer {
 public:
  __device__ Producer(const LayerCall& call, const Divisors& page_tokens, Shared& shared)
      : call_(call), page_tokens_(page_tokens), shared_(shared) {}

  /// All tiles of a part that has some.
  __device__ void part(const PartRange& range) {
    begin_unit(UnitCursor(call_, range));
    read_slot();
    Piece piece;
    find(&piece);
    ptx::load(&piece.scales, piece.scales_at);
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) fetch_block(block, &piece);
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
  static constexpr int kLaneChunks = kBlockChunks / kTokenLanes;       // of a block

  /// What a lane has of a piece: its share of a token.
  struct Piece {
    bool there, named, slow;  // slow: not to be fetched and stored as most are
    int32_t slot;  // with the upper bit set if it is one of the second scope's
    const uint8_t *data, *scales_at;
    uint2 scales;
    uint4 bytes[kBlocks + 1];  // the last block is bf16, and so twice as long
  };

  __device__ static int warp() { return ptx::thread_number() / 32 % kWarps; }
  __device__ static int lane() { return ptx::thread_number() % 32; }
  /// Of a token's lanes.
  __device__ static int share() { return lane() % kTokenLanes; }
  /// The line of a tile that this lane shares in piece `number`.
  __device__ static int line(int number) {
    return (number * kWarps + warp()) * kPieceTokens + lane() / kTokenLanes;
  }

  /// Goes on to read the slots of the cursor's unit, and tells the others of it.
  __device__ void begin_unit(const UnitCursor& cursor) {
    row_ = cursor.row();
    window_ = cursor.window();
    piece_begin_ = cursor.begin();
    unit_end_ = cursor.end();
    pieces_end_ = piece_begin_ + (cursor.valid() ? cursor.tiles() * kTokens : 0);
    if (lane() != 0) return;
    shared_.ahead[warp()] = cursor;
    if (warp() == 0 && cursor.valid())
      shared_.units[cursor.number() % kUnits] = cursor.describe(call_, own_part());
  }

  /// Begins to read the slot of this lane's token in the next piece, if there is one.
  __device__ void read_slot() {
    there_ = piece_begin_ < pieces_end_;
    int in_scope = piece_begin_ + line(0);
    const bool has_slot = in_scope < unit_end_;
    scope_ = in_scope >= window_;
    if (scope_ == 1) in_scope -= window_;
    const Pool* const pools = call_.layer.scopes;
    const int32_t* const slots = scope_ == 0 ? pools[0].slots : pools[1].slots;
    const int64_t stride = scope_ == 0 ? pools[0].slots_stride : pools[1].slots_stride;
    ptx::load(&slot_, has_slot ? slots + row_ * stride + in_scope : &kNoSlot);
    piece_begin_ += kTokens / kTilePieces;
    if (piece_begin_ != pieces_end_) [[likely]]
      return;
    __syncwarp();
    UnitCursor cursor = shared_.ahead[warp()];
    __syncwarp();
    cursor.advance(call_);
    begin_unit(cursor);
  }

  /// Finds the token whose slot was read, and begins to read the next slot.
  __device__ void find(Piece* piece) {
    const auto slot = static_cast<int32_t>(ptx::take(static_cast<uint32_t>(slot_)));
    const Pool &first = call_.layer.scopes[0], &second = call_.layer.scopes[1];
    const auto either = [&](const auto& a, const auto& b) { return scope_ == 0 ? a : b; };
    const int page_tokens = either(first.shape.page_tokens, second.shape.page_tokens);
    const int32_t page = scope_ == 0 ? page_tokens_.of_scope[0].divide(slot)
                                     : page_tokens_.of_scope[1].divide(slot);
    const int32_t in_page = slot - page * page_tokens;
    const uint8_t* const begin =
        either(first.pages, second.pages) +
        page * either(first.page_stride_bytes, second.page_stride_bytes);
    const uint8_t* const data = begin + steady_data_offset(STEADY_CACHE_FP8, in_page);
    const uint8_t* const scales = begin + steady_fp8_scales_offset(page_tokens, in_page);
    const bool plain = either(first.shape.format, second.shape.format) == STEADY_CACHE_FP8 &&
                       (reinterpret_cast<uintptr_t>(data) % sizeof(uint4) |
                        reinterpret_cast<uintptr_t>(scales) % sizeof(uint2)) == 0;
    piece->there = there_;
    piece->named = slot >= 0 && page < either(first.page_count, second.page_count);
    piece->slow = piece->named && !plain;
    piece->slot = scope_ == 0 ? slot : slot | INT32_MIN;
    const bool fetches = piece->named && plain;
    piece->data = (fetches ? data : kNoToken) + share() * sizeof(uint4);
    piece->scales_at = fetches ? scales : kNoToken + STEADY_FP8_DATA_BYTES;
    read_slot();
  }

  /// The last block is bf16.
  static constexpr bool is_bf16(int block) { return block + 1 == kBlocks; }
  __device__ static void fetch_block(int block, Piece* piece) {
    const uint8_t* from = piece->data + block * kBlockDims;
    ptx::load(&piece->bytes[block], from);
    if (is_bf16(block)) ptx::load(&piece->bytes[block + 1], from + kTokenLanes * sizeof(uint4));
  }

  /// Brings a piece, and fetches the next one into its place.
  __device__ void bring(int number, uint32_t buffer, Piece* piece) {
    const bool named = piece->named, slow = piece->slow;
    const int32_t slot = piece->slot;
    const uint2 scales = {ptx::take(piece->scales.x), ptx::take(piece->scales.y)};
    find(piece);
    ptx::load(&piece->scales, piece->scales_at);
    const uint32_t all_named = __ballot_sync(~0u, named);
    if (lane() == 0) shared_.named[buffer][number * kWarps + warp()] = all_named;
    Block* blocks = shared_.tokens[buffer];
    const bool plain = store(line(number), scales, piece, blocks);
    if (__any_sync(~0u, slow || !plain)) [[unlikely]]
      store_slowly(line(number), slot, slow, !plain, blocks);
  }

  /// Whether the values could be made in the plain way. Of eight lanes that store together no two
  /// have the same banks.
  __device__ static bool store(int line, const uint2& scales, Piece* piece, Block* blocks) {
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
      fetch_block(block, piece);
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

  const LayerCall& call_;
  const Divisors& page_tokens_;
  Shared& shared_;
  // The next piece whose slots will be read: its row and how many tokens of that the window has; as
  // positions in the row where it begins and where the tokens and the pieces of its unit end.
  int row_, window_, piece_begin_, unit_end_, pieces_end_;
  // The last piece whose slots were read.
  int32_t slot_;
  int scope_;
  bool there_;
};

}  // namespace steady::cuda::sm90
