// SPDX-License-Identifier: Apache-2.0
// Slots in, tiles of de-quantised tokens in shared memory out: the work of one or two warpgroups.
#pragma once

#include "cuda/dequantise.cuh"
#include "cuda/faults.cuh"
#include "cuda/ptx/barrier.cuh"
#include "cuda/sm90/shared.cuh"

namespace steady::cuda::sm90 {

/// Four lanes share a token; each takes every fourth chunk of its bytes.
inline constexpr int kLanesAToken = 4;
inline constexpr int kFp8Chunks = STEADY_FP8_DATA_BYTES / 16 / kLanesAToken;
inline constexpr int kNopeChunks = STEADY_NOPE_DIM / 16 / kLanesAToken;
static_assert(kNopeChunks * STEADY_FP8_SCALE_GROUP == STEADY_NOPE_DIM,
              "the four lanes' chunks of one step share a scale");

/// What a slot names, and whether its bytes can travel to registers early.
struct Named {
  enum class Kind : uint8_t { kNothing, kFp8, kSlow };
  Kind kind = Kind::kNothing;
  uint8_t scope = 0;
  int32_t slot = 0;
  const uint8_t* data = nullptr;    // this lane's share, if kFp8
  const uint8_t* scales = nullptr;  // if kFp8
};

/// A lane's share of a token's bytes.
struct Raw {
  uint2 scales;
  uint4 chunks[kFp8Chunks];
};

/// A tile comes in pieces of as many tokens as the producers have quads. While a piece is turned
/// into bf16, the bytes of the next one are on their way to registers, and the slots of the one
/// after.
template <int kHeads>
class Producer {
 public:
  __device__ Producer(const LayerCall& call, const PartRange& range, Shared<kHeads>& shared)
      : call_(call),
        shared_(shared),
        logs_(call.tables.faults != nullptr && blockIdx.y == 0),
        ahead_(call, range) {}

  /// All tiles of this part.
  __device__ void part() {
    bool more = ahead_.valid();
    read_slot();
    Named next = resolve();
    Raw coming = fetch(next);
    go_ahead();
    read_slot();
    for (int piece = 0; more; ++piece) {
      const Named now = next;
      const Raw raw = coming;
      more = ahead_.valid();
      next = resolve();
      coming = fetch(next);
      go_ahead();
      read_slot();
      const int tile = piece / kPieces, buffer = tile % kBuffers;
      if (piece % kPieces == 0) ptx::wait(&shared_.empty[buffer], (tile / kBuffers + 1) % 2);
      store(now, raw, buffer, token(piece % kPieces));
      if (piece % kPieces < kPieces - 1) continue;
      ptx::fence_shared_writes();
      __syncwarp();
      if (lane() == 0) ptx::arrive(&shared_.full[buffer]);
    }
  }

 private:
  static constexpr int32_t kHole = -1;
  static constexpr int kPieceTokens = kProducerGroups<kHeads> * kGroupThreads / kLanesAToken;
  static constexpr int kPieces = kTokens / kPieceTokens;

  __device__ static int thread() {
    return static_cast<int>(threadIdx.x) - kConsumerGroups<kHeads> * kGroupThreads;
  }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ static int quarter() { return lane() % kLanesAToken; }
  /// Eight lines of a warp's tokens lie in eight lines of a block: no two in the same banks.
  __device__ static int token(int piece) { return piece * kPieceTokens + thread() / kLanesAToken; }

  __device__ void go_ahead() {
    if (++piece_ahead_ < kPieces) return;
    piece_ahead_ = 0;
    ahead_.advance();
  }

  __device__ void read_slot() {
    slot_ = kHole;
    position_ = ahead_.begin() + token(piece_ahead_);
    if (!ahead_.valid() || position_ >= ahead_.unit_end()) return;
    const int window = ahead_.plan().tokens[0];
    scope_ = position_ < window ? 0 : 1;
    position_ -= scope_ == 0 ? 0 : window;
    const Pool& pool = call_.layer.scopes[scope_];
    slot_ = pool.slots[ahead_.row() * pool.slots_stride + position_];
  }

  /// What the slot that was read names.
  __device__ Named resolve() const {
    Named named;
    if (slot_ == kHole) return named;
    const Pool& pool = call_.layer.scopes[scope_];
    if (!pool.has(slot_)) {
      if (logs_ && quarter() == 0) log_stray(call_, ahead_.row(), scope_, position_, slot_);
      return named;
    }
    named.kind = Named::Kind::kSlow;
    named.scope = static_cast<uint8_t>(scope_);
    named.slot = slot_;
    if (pool.shape.format != STEADY_CACHE_FP8) return named;
    const Token place = pool.token(slot_);
    const bool aligned = (reinterpret_cast<uintptr_t>(place.data) % sizeof(uint4) |
                          reinterpret_cast<uintptr_t>(place.scales) % sizeof(uint2)) == 0;
    if (!aligned) return named;
    named.kind = Named::Kind::kFp8;
    named.data = place.data + quarter() * sizeof(uint4);
    named.scales = place.scales;
    return named;
  }

  /// Begins to fetch this lane's share; zeros, which any scale leaves zeros, for what no slot
  /// names.
  __device__ static Raw fetch(const Named& from) {
    const bool wanted = from.kind == Named::Kind::kFp8;
    Raw raw;
    ptx::load_if(&raw.scales, from.scales, wanted);
#pragma unroll
    for (int i = 0; i < kFp8Chunks; ++i)
      ptx::load_if(&raw.chunks[i], from.data + i * kLanesAToken * sizeof(uint4), wanted);
    return raw;
  }

  /// Writes this lane's share of a token as bf16.
  __device__ void store(const Named& now, const Raw& raw, int buffer, int row) {
    Block<kTokens>* blocks = shared_.tokens[buffer];
    if (quarter() == 0) shared_.named[buffer][row] = now.kind != Named::Kind::kNothing;
    PlainDequantiser plain(raw.scales);
#pragma unroll
    for (int i = 0; i < kNopeChunks; ++i) {
      plain(raw.chunks[i], i, blocks[i].at(row, 2 * quarter()),
            blocks[i].at(row, 2 * quarter() + 1));
    }
#pragma unroll
    for (int i = kNopeChunks; i < kFp8Chunks; ++i) {
      *blocks[kBlocks - 1].at(row, (i - kNopeChunks) * kLanesAToken + quarter()) = raw.chunks[i];
    }
    const uint32_t others =
        __ballot_sync(~0u, now.kind == Named::Kind::kSlow || !plain.was_plain());
    if (others == 0) return;
    __syncwarp();  // another lane's share may be written again
    if ((others >> (lane() - quarter()) & ((1u << kLanesAToken) - 1)) != 0)
      store_slowly(now, blocks, row);
  }

  /// Tokens of bf16, tokens at odd addresses, and tokens that are not plain.
  __device__ void store_slowly(const Named& from, Block<kTokens>* blocks, int row) const {
    const Pool& pool = call_.layer.scopes[from.scope];
    const Token place = pool.token(from.slot);
    const bool fp8 = pool.shape.format == STEADY_CACHE_FP8;
#pragma unroll 1
    for (int chunk = quarter(); chunk < kHeadDim / kChunkDims; chunk += kLanesAToken) {
      *blocks[chunk / kBlockChunks].at(row, chunk % kBlockChunks) =
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
  Shared<kHeads>& shared_;
  const bool logs_;
  // The piece whose slots are on their way.
  TileCursor ahead_;
  int piece_ahead_ = 0;
  int32_t slot_ = kHole;
  int scope_ = 0, position_ = 0;  // the position in the scope
};

}  // namespace steady::cuda::sm90
