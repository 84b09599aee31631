// SPDX-License-Identifier: Apache-2.0
// Slots in, tiles of de-quantised tokens in shared memory out: the work of one warpgroup. Bytes of
// the next tile travel to registers while this one is being turned into bf16.
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

/// A token on its way.
struct Fetched {
  enum class Kind : uint8_t { kNothing, kFp8, kSlow };
  Kind kind;
  uint8_t scope;
  int32_t slot;
  uint4 raw[kFp8Chunks];  ///< this lane's chunks, if kFp8
  uint2 raw_scales;
};

template <int kHeads>
class Producer {
 public:
  __device__ Producer(const LayerCall& call, Shared<kHeads>& shared)
      : call_(call), shared_(shared), logs_(call.tables.faults != nullptr && blockIdx.y == 0) {}

  /// All tiles of this part. The slots of a tile are read one tile before its bytes.
  __device__ void part() {
    TileCursor tile(call_);
    read_slots(tile);
    for (int own = 0; own < kOwnTokens; ++own) load(own);
    bool more = tile.valid();
    for (int step = 0; more; ++step) {
      tile.advance();
      more = tile.valid();
      read_slots(tile);
      const int buffer = step % kBuffers;
      ptx::wait(&shared_.empty[buffer], (step / kBuffers + 1) % 2);
#pragma unroll
      for (int own = 0; own < kOwnTokens; ++own) {
        store(buffer, own);
        load(own);
      }
      ptx::fence_shared_writes();
      __syncwarp();
      if (lane() == 0) ptx::arrive(&shared_.full[buffer]);
    }
  }

 private:
  /// Tokens of a tile that are this thread's business.
  static constexpr int kOwnTokens =
      kTokens * kLanesAToken / (kGroupThreads * kProducerGroups<kHeads>);

  __device__ static int warp() {
    return (static_cast<int>(threadIdx.x) - kConsumerGroups * kGroupThreads) / 32;
  }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ static int quarter() { return lane() % kLanesAToken; }
  /// Eight lines of a warp's tokens lie in eight lines of a block: no two in the same banks.
  __device__ static int token(int own) { return (warp() * kOwnTokens + own) * 8 + lane() / 4; }

  __device__ void read_slots(const TileCursor& tile) {
    row_ = tile.row();
    begin_ = tile.begin();
    window_ = tile.plan().tokens[0];
#pragma unroll
    for (int own = 0; own < kOwnTokens; ++own) {
      const int position = begin_ + token(own);
      slots_[own] = kHole;
      if (!tile.valid() || position >= tile.unit_end()) continue;
      const Pool& pool = call_.layer.scopes[scope_of(position)];
      slots_[own] = pool.slots[row_ * pool.slots_stride + position_in_scope(position)];
    }
  }

  __device__ int scope_of(int position) const { return position < window_ ? 0 : 1; }
  __device__ int position_in_scope(int position) const {
    return position < window_ ? position : position - window_;
  }

  /// Begins to fetch token `own` of the tile whose slots have been read.
  __device__ void load(int own) {
    Fetched& to = tokens_[own];
    to.kind = Fetched::Kind::kNothing;
    to.slot = slots_[own];
    if (to.slot == kHole) return;
    const int position = begin_ + token(own);
    to.scope = static_cast<uint8_t>(scope_of(position));
    const Pool& pool = call_.layer.scopes[to.scope];
    if (!pool.has(to.slot)) {
      if (logs_ && quarter() == 0)
        log_stray(call_, row_, to.scope, position_in_scope(position), to.slot);
      return;
    }
    to.kind = Fetched::Kind::kSlow;
    if (pool.shape.format != STEADY_CACHE_FP8) return;
    const Token place = pool.token(to.slot);
    const bool aligned = (reinterpret_cast<uintptr_t>(place.data) % sizeof(uint4) |
                          reinterpret_cast<uintptr_t>(place.scales) % sizeof(uint2)) == 0;
    if (!aligned) return;
    to.kind = Fetched::Kind::kFp8;
    to.raw_scales = *reinterpret_cast<const uint2*>(place.scales);
    const auto* chunks = reinterpret_cast<const uint4*>(place.data) + quarter();
#pragma unroll
    for (int i = 0; i < kFp8Chunks; ++i) to.raw[i] = chunks[i * kLanesAToken];
  }

  /// Writes this lane's share of the token as bf16.
  __device__ void store(int buffer, int own) {
    const Fetched& from = tokens_[own];
    const int row = token(own);
    Block<kTokens>* blocks = shared_.tokens[buffer];
    if (quarter() == 0) shared_.named[buffer][row] = from.kind != Fetched::Kind::kNothing;
    if (from.kind == Fetched::Kind::kFp8) {
#pragma unroll
      for (int i = 0; i < kNopeChunks; ++i) {
        const uint32_t four_scales = i < 4 ? from.raw_scales.x : from.raw_scales.y;
        dequantise(from.raw[i], four_scales >> (8 * (i % 4)) & 0xff,
                   blocks[i].at(row, 2 * quarter()), blocks[i].at(row, 2 * quarter() + 1));
      }
#pragma unroll
      for (int i = kNopeChunks; i < kFp8Chunks; ++i) {
        *blocks[kBlocks - 1].at(row, (i - kNopeChunks) * kLanesAToken + quarter()) = from.raw[i];
      }
    } else {
      store_slowly(from, blocks, row);
    }
  }

  /// Tokens of bf16, tokens at odd addresses, and zeros for what no slot names.
  __device__ void store_slowly(const Fetched& from, Block<kTokens>* blocks, int row) const {
    const bool named = from.kind != Fetched::Kind::kNothing;
    const Token place = named ? call_.layer.scopes[from.scope].token(from.slot) : Token{};
    const bool fp8 = named && call_.layer.scopes[from.scope].shape.format == STEADY_CACHE_FP8;
#pragma unroll 1
    for (int chunk = quarter(); chunk < kHeadDim / kChunkDims; chunk += kLanesAToken) {
      Chunk values = {0, 0, 0, 0};
      if (fp8) {
        values = read_fp8_chunk(place, chunk);
      } else if (named) {
        values = read_bytes(place.data + chunk * sizeof(Chunk));
      }
      *blocks[chunk / kBlockChunks].at(row, chunk % kBlockChunks) = values;
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
  static constexpr int32_t kHole = -1;
  // Of the tile whose bytes are loaded next.
  int row_ = 0, begin_ = 0, window_ = 0;
  int32_t slots_[kOwnTokens];
  Fetched tokens_[kOwnTokens];
};

}  // namespace steady::cuda::sm90
