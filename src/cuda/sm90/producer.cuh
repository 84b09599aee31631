// SPDX-License-Identifier: Apache-2.0
// Slots in, tiles of de-quantised tokens in shared memory out, of this block's share of their
// values: the work of two warpgroups.
#pragma once

#include "cuda/dequantise.cuh"
#include "cuda/ptx/barrier.cuh"
#include "cuda/sm90/shared.cuh"

namespace steady::cuda::sm90 {

/// Four lanes share a token; each takes every fourth chunk of its bytes.
inline constexpr int kLanesAToken = 4;
inline constexpr int kWarpTokens = 32 / kLanesAToken;  // of a tile
static_assert(kProducerWarps * kWarpTokens == kTokens);
static_assert(STEADY_FP8_SCALE_GROUP == kBlockDims && STEADY_NOPE_DIM == (kBlocks - 1) * kBlockDims,
              "a block of values has one scale, and the last one is bf16");

/// What is fetched where no slot names a token: zeros, which any scale leaves zeros.
alignas(16) __device__ const uint8_t kNoToken[STEADY_FP8_TOKEN_BYTES] = {};

/// A token of a tile, known to one lane of the warp that brings it.
struct Named {
  enum class Kind : uint8_t { kNothing, kFp8, kSlow };
  Kind kind;
  uint8_t scope;
  bool of_tile;  // whether there is such a tile at all
  int32_t slot;
};

/// While a tile is turned into bf16, the bytes of the next ones are on their way to registers, and
/// the slots of the one after those.
template <class S>
class Producer {
 public:
  __device__ Producer(const LayerCall& call, const Divisors& page_tokens, const PartRange& range,
                      int rank, Shared<S>& shared)
      : call_(call),
        page_tokens_(page_tokens),
        shared_(shared),
        first_block_(rank * S::kOwnBlocks),
        ahead_(call, range) {}

  /// All tiles of this part.
  __device__ void part() {
    read_slot();
    Named tokens[kAhead];
    Raw raw[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const Source source = resolve(&tokens[i]);
      raw[i].scales = load_scales(source);
#pragma unroll
      for (int block = 0; block < kOwnBlocks; ++block) fetch_block(source, block, &raw[i]);
    }
    for (Ring<S::kTokenBuffers> ring;;) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (!tokens[i].of_tile) return;
        bring(&tokens[i], &raw[i], ring);
        ++ring.step;
      }
    }
  }

 private:
  static constexpr int kAhead = S::kCluster;  // tiles in registers
  static constexpr int kOwnBlocks = S::kOwnBlocks;

  /// A lane's share of a token's bytes: one chunk for each block, and the second one of bf16.
  struct Raw {
    uint32_t scales;
    uint4 chunks[kOwnBlocks + 1];
  };

  __device__ static int warp() {
    return static_cast<int>(threadIdx.x - 2 * kGroupThreads) / 32;
  }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ static int quarter() { return lane() % kLanesAToken; }
  /// Of this lane's quad, in a tile. Eight tokens of a warp lie in eight lines of a block: no two
  /// in the same banks.
  __device__ static int line() { return warp() * kWarpTokens + knower(); }
  /// The lane that knows the token of this lane's quad.
  __device__ static int knower() { return lane() / kLanesAToken; }
  __device__ bool has_last_block() const { return first_block_ + kOwnBlocks == kBlocks; }

  /// Begins to read the slot of this lane's token, of the tile ahead.
  __device__ void read_slot() {
    slot_ = Position::kHole;
    scope_ = 0;
    if (lane() >= kWarpTokens) return;
    const Position position = position_of(call_, ahead_, warp() * kWarpTokens + lane());
    slot_ = position.slot;
    scope_ = position.scope;
  }

  /// Where this lane's share of a token comes from.
  struct Source {
    const uint8_t *data, *scales;
  };

  /// What the slot that was read names, and where this lane's quad finds its token; begins to read
  /// the next tile's slot.
  __device__ Source resolve(Named* named) {
    *named = {Named::Kind::kNothing, static_cast<uint8_t>(scope_), ahead_.valid(), slot_};
    Source token = {kNoToken, kNoToken + STEADY_FP8_DATA_BYTES};
    const Pool& pool = call_.layer.scopes[scope_];
    if (slot_ != Position::kHole && pool.has(slot_)) {
      const Token place = pool.token(slot_, page_tokens_.of_scope[scope_].divide(slot_));
      const bool aligned = (reinterpret_cast<uintptr_t>(place.data) % sizeof(uint4) |
                            reinterpret_cast<uintptr_t>(place.scales) % sizeof(uint32_t)) == 0;
      const bool fast = pool.shape.format == STEADY_CACHE_FP8 && aligned;
      named->kind = fast ? Named::Kind::kFp8 : Named::Kind::kSlow;
      if (fast) token = {place.data, place.scales};
    }
    if (ahead_.valid()) ahead_.advance();
    read_slot();
    return {of_knower(token.data) + first_block_ * kBlockDims + quarter() * sizeof(uint4),
            of_knower(token.scales) + first_block_ / 4 * 4};
  }

  __device__ static const uint8_t* of_knower(const uint8_t* pointer) {
    const auto address = static_cast<unsigned long long>(reinterpret_cast<uintptr_t>(pointer));
    return reinterpret_cast<const uint8_t*>(__shfl_sync(~0u, address, knower()));
  }

  __device__ static uint32_t load_scales(const Source& source) {
    uint32_t scales;
    ptx::load(&scales, source.scales);
    return scales;
  }
  /// The last block of all is bf16: twice as long.
  __device__ void fetch_block(const Source& source, int i, Raw* raw) const {
    ptx::load(&raw->chunks[i], source.data + i * kBlockDims);
    if (i + 1 == kOwnBlocks && has_last_block())
      ptx::load(&raw->chunks[i + 1], source.data + (i + 1) * kBlockDims);
  }

  /// Scale bytes of the own blocks, without the one that means nothing.
  __device__ uint32_t own_scales(uint32_t scales) const {
    constexpr uint32_t kOwn = kOwnBlocks == 4 ? ~0u : 0xffffu;
    return scales >> (8 * (first_block_ % 4)) & (has_last_block() ? kOwn >> 8 : kOwn);
  }

  /// Brings the tile in `raw`, and fetches the next one that has no place yet into its place.
  __device__ void bring(Named* named, Raw* raw, const Ring<S::kTokenBuffers>& ring) {
    ring.wait_empty(shared_.tokens_empty);
    const uint32_t all = __ballot_sync(~0u, named->kind != Named::Kind::kNothing);
    if (lane() == 0)
      shared_.named[ring.index()][warp()] = static_cast<uint8_t>(all & ((1u << kWarpTokens) - 1));
    store(named, raw, shared_.tokens[ring.index()]);
    ptx::fence_shared_writes();
    hand_over(&shared_.tokens_full[ring.index()]);
  }

  __device__ void store(Named* token, Raw* raw, Block* blocks) {
    const Named named = *token;
    const Source source = resolve(token);
    PlainDequantiser plain(own_scales(raw->scales));
    raw->scales = load_scales(source);
#pragma unroll
    for (int i = 0; i < kOwnBlocks; ++i) {
      if (i + 1 < kOwnBlocks || !has_last_block()) {
        plain(raw->chunks[i], i, blocks[i].at(line(), 2 * quarter()),
              blocks[i].at(line(), 2 * quarter() + 1));
      } else {
        *blocks[i].at(line(), quarter()) = raw->chunks[i];
        *blocks[i].at(line(), quarter() + kLanesAToken) = raw->chunks[i + 1];
      }
      fetch_block(source, i, raw);
    }
    const bool slow = lane() < kWarpTokens && named.kind == Named::Kind::kSlow;
    if (!__any_sync(~0u, slow || !plain.was_plain())) return;
    __syncwarp();  // another lane's share may be written again
    store_slowly(named, !plain.was_plain(), blocks);
  }

  /// Tokens of bf16, tokens at odd addresses, and tokens that are not plain.
  __device__ void store_slowly(const Named& named, bool again, Block* blocks) const {
    const uint32_t others = __ballot_sync(~0u, again);
    const auto kind =
        static_cast<Named::Kind>(__shfl_sync(~0u, static_cast<int>(named.kind), knower()));
    const int scope = __shfl_sync(~0u, static_cast<int>(named.scope), knower());
    const int32_t slot = __shfl_sync(~0u, named.slot, knower());
    again = (others >> (lane() - quarter()) & ((1u << kLanesAToken) - 1)) != 0;
    if (kind == Named::Kind::kNothing || (kind == Named::Kind::kFp8 && !again)) return;
    const Pool& pool = call_.layer.scopes[scope];
    const Token place = pool.token(slot);
    const bool fp8 = pool.shape.format == STEADY_CACHE_FP8;
#pragma unroll 1
    for (int own = quarter(); own < kOwnBlocks * kBlockChunks; own += kLanesAToken) {
      const int chunk = first_block_ * kBlockChunks + own;
      *blocks[own / kBlockChunks].at(line(), own % kBlockChunks) =
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
  Shared<S>& shared_;
  const int first_block_;  // of this block's share
  // The tile whose slots are on their way, and this lane's of them.
  TileCursor ahead_;
  int32_t slot_;
  int scope_;
};

}  // namespace steady::cuda::sm90
