// SPDX-License-Identifier: Apache-2.0
// Slots in, tiles of de-quantised tokens in shared memory out: the work of one or two warpgroups.
#pragma once

#include "cuda/dequantise.cuh"
#include "cuda/ptx/barrier.cuh"
#include "cuda/sm90/shared.cuh"

namespace steady::cuda::sm90 {

/// Four lanes share a token; each takes every fourth chunk of its bytes.
inline constexpr int kLanesAToken = 4;
inline constexpr int kFp8Chunks = STEADY_FP8_DATA_BYTES / 16 / kLanesAToken;
inline constexpr int kNopeChunks = STEADY_NOPE_DIM / 16 / kLanesAToken;
static_assert(kNopeChunks * STEADY_FP8_SCALE_GROUP == STEADY_NOPE_DIM,
              "the four lanes' chunks of one step share a scale");

/// What is fetched where no slot names a token: zeros, which any scale leaves zeros.
alignas(16) __device__ const uint8_t kNoToken[STEADY_FP8_TOKEN_BYTES] = {};

/// A tile's tokens, each known to one lane of the warp that brings it.
struct Named {
  enum class Kind : uint8_t { kNothing, kFp8, kSlow };
  Kind kind;
  uint8_t scope;
  bool of_tile;  // whether there is such a tile at all
  int32_t slot;
  const uint8_t* data;  // of kNoToken, unless kFp8: those can travel to registers early
  const uint8_t* scales;
};

/// A lane's share of a token's bytes.
struct Raw {
  uint2 scales;
  uint4 chunks[kFp8Chunks];
};

/// A tile comes in pieces of as many tokens as the producers have quads. While a piece is turned
/// into bf16, the bytes of the next one take its place in registers, those of the next tile are on
/// their way to the L2 cache, and the slots of the one after that to registers.
template <int kHeads>
class Producer {
 public:
  __device__ Producer(const LayerCall& call, const PartRange& range, Shared<kHeads>& shared)
      : call_(call), shared_(shared), ahead_(call, range) {}

  /// All tiles of this part.
  __device__ void part() {
    read_slot();
    Named now = {}, next = {};
    Raw raw;
    for (int tile = -1;; ++tile) {
      next = resolve();
      if (tile < 0) {
        fetch(next, &raw);
      } else {
        bring(now, next, &raw, tile);
      }
      if (!next.of_tile) return;
      now = next;
    }
  }

 private:
  static constexpr int kWarpTokens = 32 / kLanesAToken;  // of a piece
  static constexpr int kPieceTokens = kProducerGroups<kHeads> * kWarps * kWarpTokens;
  static constexpr int kPieces = kTokens / kPieceTokens;
  static constexpr int kTileTokens = kPieces * kWarpTokens;  // of a warp
  static_assert(kTileTokens <= 32, "a lane knows one token");

  __device__ static int warp() {
    return static_cast<int>(threadIdx.x) / 32 - (1 + kWeigherGroups<kHeads>)*kWarps;
  }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ static int quarter() { return lane() % kLanesAToken; }
  /// The token, of a tile, of a warp's `number`-th. Eight tokens of a warp lie in eight lines of a
  /// block: no two in the same banks.
  __device__ static int token(int number) {
    return number / kWarpTokens * kPieceTokens + warp() * kWarpTokens + number % kWarpTokens;
  }
  /// The lane that knows the token of this lane's quad.
  __device__ static int knower(int piece) { return piece * kWarpTokens + lane() / kLanesAToken; }

  __device__ static const uint8_t* of_lane(int other, const uint8_t* pointer) {
    const auto address = static_cast<unsigned long long>(reinterpret_cast<uintptr_t>(pointer));
    return reinterpret_cast<const uint8_t*>(__shfl_sync(~0u, address, other));
  }

  /// Begins to read the slot of this lane's token, of the tile ahead.
  __device__ void read_slot() {
    const Position position = position_of(call_, ahead_, token(lane()));
    slot_ = lane() < kTileTokens ? position.slot : Position::kHole;
    scope_ = position.scope;
  }

  /// What the slot that was read names; begins to read the next tile's.
  __device__ Named resolve() {
    const Named named = resolve_slot();
    if (ahead_.valid()) ahead_.advance();
    read_slot();
    return named;
  }

  __device__ Named resolve_slot() const {
    Named named = {Named::Kind::kNothing,
                   static_cast<uint8_t>(scope_),
                   ahead_.valid(),
                   slot_,
                   kNoToken,
                   kNoToken + STEADY_FP8_DATA_BYTES};
    const Pool& pool = call_.layer.scopes[scope_];
    if (slot_ == Position::kHole || !pool.has(slot_)) return named;
    named.kind = Named::Kind::kSlow;
    if (pool.shape.format != STEADY_CACHE_FP8) return named;
    const Token place = pool.token(slot_);
    const bool aligned = (reinterpret_cast<uintptr_t>(place.data) % sizeof(uint4) |
                          reinterpret_cast<uintptr_t>(place.scales) % sizeof(uint2)) == 0;
    if (!aligned) return named;
    named.kind = Named::Kind::kFp8;
    named.data = place.data;
    named.scales = place.scales;
    ptx::prefetch<STEADY_FP8_DATA_BYTES>(named.data);
    ptx::prefetch(named.scales);
    return named;
  }

  /// Where this lane's share of a piece comes from.
  struct Share {
    const uint8_t *data, *scales;
  };
  __device__ static Share share_of(const uint8_t* data, const uint8_t* scales, int piece) {
    return {of_lane(knower(piece), data) + quarter() * sizeof(uint4),
            of_lane(knower(piece), scales)};
  }
  __device__ static void fetch_chunk(const Share& share, int i, Raw* raw) {
    ptx::load(&raw->chunks[i], share.data + i * kLanesAToken * sizeof(uint4));
  }

  /// Of a tile's first piece.
  __device__ static void fetch(const Named& named, Raw* raw) {
    const Share share = share_of(named.data, named.scales, 0);
    ptx::load(&raw->scales, share.scales);
#pragma unroll
    for (int i = 0; i < kFp8Chunks; ++i) fetch_chunk(share, i, raw);
  }

  /// Brings a tile whose first piece is in `raw`, and leaves the next tile's first piece there.
  __device__ void bring(const Named& now, const Named& next, Raw* raw, int tile) {
    const int buffer = tile % kBuffers;
    ptx::wait(&shared_.tokens_empty[buffer], (tile / kBuffers + 1) % 2);
    if (lane() < kTileTokens) {
      shared_.named[buffer][token(lane())] = now.kind != Named::Kind::kNothing;
    }
#pragma unroll 1
    for (int piece = 0; piece < kPieces; ++piece) {
      const bool last = piece + 1 == kPieces;
      const Share following = share_of(last ? next.data : now.data, last ? next.scales : now.scales,
                                       last ? 0 : piece + 1);
      store(now, piece, following, raw, buffer);
    }
    ptx::fence_shared_writes();
    __syncwarp();
    if (lane() == 0) ptx::arrive(&shared_.tokens_full[buffer]);
  }

  /// Writes this lane's share of a piece as bf16, and fetches `following` instead.
  __device__ void store(const Named& named, int piece, const Share& following, Raw* raw,
                        int buffer) {
    Block<kTokens>* blocks = shared_.tokens[buffer];
    const int row = token(knower(piece));
    PlainDequantiser plain(raw->scales);
    ptx::load(&raw->scales, following.scales);
#pragma unroll
    for (int i = 0; i < kNopeChunks; ++i) {
      plain(raw->chunks[i], i, blocks[i].at(row, 2 * quarter()),
            blocks[i].at(row, 2 * quarter() + 1));
      fetch_chunk(following, i, raw);
    }
#pragma unroll
    for (int i = kNopeChunks; i < kFp8Chunks; ++i) {
      *blocks[kBlocks - 1].at(row, (i - kNopeChunks) * kLanesAToken + quarter()) = raw->chunks[i];
      fetch_chunk(following, i, raw);
    }
    const bool slow = lane() / kWarpTokens == piece && named.kind == Named::Kind::kSlow;
    if (!__any_sync(~0u, slow || !plain.was_plain())) return;
    __syncwarp();  // another lane's share may be written again
    store_slowly(named, !plain.was_plain(), blocks, piece);
  }

  /// Tokens of bf16, tokens at odd addresses, and tokens that are not plain.
  __device__ void store_slowly(const Named& named, bool again, Block<kTokens>* blocks,
                               int piece) const {
    const uint32_t others = __ballot_sync(~0u, again);
    const auto kind =
        static_cast<Named::Kind>(__shfl_sync(~0u, static_cast<int>(named.kind), knower(piece)));
    const int scope = __shfl_sync(~0u, static_cast<int>(named.scope), knower(piece));
    const int32_t slot = __shfl_sync(~0u, named.slot, knower(piece));
    again = (others >> (lane() - quarter()) & ((1u << kLanesAToken) - 1)) != 0;
    if (kind == Named::Kind::kNothing || (kind == Named::Kind::kFp8 && !again)) return;
    const Pool& pool = call_.layer.scopes[scope];
    const Token place = pool.token(slot);
    const bool fp8 = pool.shape.format == STEADY_CACHE_FP8;
    const int row = token(knower(piece));
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
  // The tile whose slots are on their way, and this lane's of them.
  TileCursor ahead_;
  int32_t slot_;
  int scope_;
};

}  // namespace steady::cuda::sm90
