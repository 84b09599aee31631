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
/// is no slot. Addresses instead of conditions: they cost less.
alignas(16) __device__ const uint8_t kNoToken[STEADY_FP8_TOKEN_BYTES] = {};
__device__ const int32_t kNoSlot = kHole;

/// A warp brings pieces of eight tokens, two of each tile. Four lanes share a token: each has sixteen
/// values of every block. A piece goes through four stages, some pieces apart: its slots are read, its
/// tokens are found and called into the L2 cache, their bytes are copied to shared memory, and these
/// are turned into bf16. Nothing is loaded from global memory into registers: loads that take long
/// would share a scoreboard with those that do not.
class Producer {
 public:
  __device__ Producer(const LayerCall& call, const Divisors& page_tokens, Shared& shared)
      : call_(call), page_tokens_(page_tokens), shared_(shared), raw_(shared.raw[warp()]) {}

  /// All tiles of a part that has some.
  __device__ void part(const PartRange& range) {
    begin_unit(UnitCursor(call_, range));
    for (int i = 0; i < kSlotsAhead; ++i) read_slots();
    ptx::wait_copies();
    __syncwarp();
    for (int i = 0; i < kFoundAhead; ++i) find();
    begin_copies();
    Ring<kBuffers> ring;
    while (left_ > 0) {
      ring.wait_empty(shared_.tokens_empty);
#pragma unroll 1
      for (int number = 0; number < kTilePieces; ++number) bring(number, ring.index);
      ptx::fence_shared_writes();
      hand_over(&shared_.tokens_full[ring.index]);
      ring.advance();
    }
  }

 private:
  static constexpr int kTokenLanes = 4, kPieceTokens = Raw::kTokens;
  static_assert(kTokenLanes * kPieceTokens == 32);
  static constexpr int kTilePieces = kTokens / kPieceTokens / kWarps;  // of a warp
  static constexpr int kLaneChunks = kBlockChunks / kTokenLanes;       // of a block
  /// How many pieces ahead of the one that is stored.
  static constexpr int kSlotsAhead = Raw::kSlots - 1, kFoundAhead = Raw::kFound;
  /// In the lower bits of the address of scales: a slot names the token; it is slow, not to be copied
  /// and stored as most are.
  static constexpr uintptr_t kNamed = 1, kSlow = 2, kFlags = kNamed | kSlow;

  __device__ static int warp() { return ptx::thread_number() / 32 % kWarps; }
  __device__ static int lane() { return ptx::thread_number() % 32; }
  /// Of a token's lanes.
  __device__ static int share() { return lane() % kTokenLanes; }
  /// Of a piece's tokens, the one that this lane shares.
  __device__ static int token() { return lane() / kTokenLanes; }
  /// The line of a tile that this lane shares in piece `number`.
  __device__ static int line(int number) {
    return (number * kWarps + warp()) * kPieceTokens + token();
  }

  /// Goes on to read the slots of the cursor's unit, and tells the others of it.
  __device__ void begin_unit(const UnitCursor& cursor) {
    row_ = cursor.row();
    window_ = cursor.window();
    piece_begin_ = cursor.begin();
    const bool valid = cursor.valid();
    unit_end_ = valid ? cursor.end() : piece_begin_;
    pieces_end_ = piece_begin_ + (valid ? cursor.tiles() * kTokens : 0);
    if (lane() != 0) return;
    shared_.ahead[warp()] = cursor;
    if (warp() == 0 && valid)
      shared_.units[cursor.number() % kUnits] = cursor.describe(call_, own_part());
  }

  /// Begins to read the slots of the next piece, if there is one.
  __device__ void read_slots() {
    int in_scope = piece_begin_ + line(0);
    const bool has_slot = in_scope < unit_end_;
    const int scope = in_scope >= window_;
    if (scope == 1) in_scope -= window_;
    const Pool* const pools = call_.layer.scopes;
    const int32_t* const slots = scope == 0 ? pools[0].slots : pools[1].slots;
    const int64_t stride = scope == 0 ? pools[0].slots_stride : pools[1].slots_stride;
    if (piece_begin_ < pieces_end_) ++left_;
    if (share() == 0) {
      Raw::Slot& to = raw_.slots[read_++ % Raw::kSlots][token()];
      ptx::copy_async_4(&to.value, has_slot ? slots + row_ * stride + in_scope : &kNoSlot);
      to.scope = scope;
    } else {
      ++read_;
    }
    ptx::commit_copies();
    piece_begin_ += kTokens / kTilePieces;
    if (piece_begin_ != pieces_end_) [[likely]]
      return;
    __syncwarp();
    UnitCursor cursor = shared_.ahead[warp()];
    __syncwarp();
    cursor.advance(call_);
    begin_unit(cursor);
  }

  /// Finds the tokens of the next piece whose slots are there, and calls them into the L2 cache.
  __device__ void find() {
    const Raw::Slot slot = raw_.slots[found_ % Raw::kSlots][token()];
    const Pool &first = call_.layer.scopes[0], &second = call_.layer.scopes[1];
    const auto either = [&](const auto& a, const auto& b) { return slot.scope == 0 ? a : b; };
    const int page_tokens = either(first.shape.page_tokens, second.shape.page_tokens);
    const int32_t page = slot.scope == 0 ? page_tokens_.of_scope[0].divide(slot.value)
                                         : page_tokens_.of_scope[1].divide(slot.value);
    const int32_t in_page = slot.value - page * page_tokens;
    const uint8_t* const begin =
        either(first.pages, second.pages) +
        page * either(first.page_stride_bytes, second.page_stride_bytes);
    const uint8_t* data = begin + steady_data_offset(STEADY_CACHE_FP8, in_page);
    const uint8_t* scales = begin + steady_fp8_scales_offset(page_tokens, in_page);
    const bool plain = either(first.shape.format, second.shape.format) == STEADY_CACHE_FP8 &&
                       (reinterpret_cast<uintptr_t>(data) % sizeof(uint4) |
                        reinterpret_cast<uintptr_t>(scales) % sizeof(uint2)) == 0;
    const bool named = slot.value >= 0 && page < either(first.page_count, second.page_count);
    if (!named || !plain) {
      data = kNoToken;
      scales = kNoToken + STEADY_FP8_DATA_BYTES;
    }
    if (share() == 0) {
      ptx::prefetch_bulk(data, STEADY_FP8_DATA_BYTES);
      ptx::prefetch(scales);
      raw_.found[found_ % Raw::kFound][token()] = {
          data, scales + (named ? kNamed : 0) + (named && !plain ? kSlow : 0)};
    }
    ++found_;
    __syncwarp();
  }

  /// The last block is bf16.
  static constexpr bool is_bf16(int block) { return block + 1 == kBlocks; }
  __device__ void copy(const uint8_t* data) const {
#pragma unroll
    for (int i = 0; i <= kBlocks; ++i)
      ptx::copy_async_16(&raw_.bytes[i][lane()], data + i * kTokenLanes * sizeof(uint4));
  }

  /// Where the next piece to be copied lies, this lane's share of it.
  __device__ const uint8_t* begin_piece(uint32_t* flags) {
    const Raw::Found found = raw_.found[copied_++ % Raw::kFound][token()];
    *flags = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(found.scales) & kFlags);
    if (share() == 0) ptx::copy_async_8(&raw_.scales[token()], found.scales - *flags);
    return found.data + share() * sizeof(uint4);
  }

  __device__ void begin_copies() {
    const uint8_t* const data = begin_piece(&flags_);
    copy(data);
    ptx::commit_copies();
    read_slots();
  }

  /// Brings a piece, and begins to copy the next one into its place.
  __device__ void bring(int number, uint32_t buffer) {
    ptx::wait_copies_but<1>();  // but for the last slots
    __syncwarp();
    const uint2 scales = raw_.scales[token()];
    const uint32_t flags = flags_;
    find();
    const uint8_t* const next = begin_piece(&flags_);
    const uint32_t all_named = __ballot_sync(~0u, (flags & kNamed) != 0);
    if (lane() == 0) shared_.named[buffer][number * kWarps + warp()] = all_named;
    Block* blocks = shared_.tokens[buffer];
    const bool plain = store(line(number), scales, next, blocks);
    ptx::commit_copies();
    const bool slow = (flags & kSlow) != 0;
    if (__any_sync(~0u, slow || !plain)) [[unlikely]] {
      const uint32_t piece = copied_ - 2;
      store_slowly(line(number), raw_.slots[piece % Raw::kSlots][token()], slow, !plain, blocks);
      __syncwarp();  // nobody needs the piece's slots
    }
    --left_;
    read_slots();
  }

  /// Whether the values could be made in the plain way. Of eight lanes that store together no two
  /// have the same banks.
  __device__ bool store(int line, const uint2& scales, const uint8_t* next, Block* blocks) const {
    uint4 bytes[kBlocks + 1];
#pragma unroll
    for (int i = 0; i <= kBlocks; ++i) bytes[i] = raw_.bytes[i][lane()];
    PlainDequantiser plain({scales.x, scales.y & 0xffffff});  // the last byte means nothing
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      if (is_bf16(block)) {
        *blocks[block].at(line, share()) = bytes[block];
        *blocks[block].at(line, kTokenLanes + share()) = bytes[block + 1];
      } else {
        plain(bytes[block], block, blocks[block].at(line, kLaneChunks * share()),
              blocks[block].at(line, kLaneChunks * share() + 1));
      }
      if (block == 0) copy(next);  // now all bytes have been read
    }
    return plain.was_plain();
  }

  /// Tokens of bf16, tokens at odd addresses, and tokens that are not plain: each lane the chunks
  /// that it has stored before.
  __device__ void store_slowly(int line, const Raw::Slot& slot, bool slow, bool again,
                               Block* blocks) const {
    const uint32_t others = __ballot_sync(~0u, again);
    again = (others >> (lane() - share()) & ((1u << kTokenLanes) - 1)) != 0;
    if (!slow && !again) return;
    const Pool& pool = call_.layer.scopes[slot.scope];
    const Token place = pool.token(slot.value);
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
  Raw& raw_;  // this warp's
  // The next piece whose slots will be read: its row and how many tokens of that the window has; as
  // positions in the row where it begins and where the tokens and the pieces of its unit end.
  int row_, window_, piece_begin_, unit_end_, pieces_end_;
  // Pieces that went through the first three stages, and those between the first and the last.
  uint32_t read_ = 0, found_ = 0, copied_ = 0;
  int left_ = 0;
  uint32_t flags_;  // of the piece that is being copied
};

}  // namespace steady::cuda::sm90
