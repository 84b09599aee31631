// SPDX-License-Identifier: Apache-2.0
// Slots in, places of tokens out to the producers, tiles ahead of the one that is scored. The
// scorer does it before it waits for a tile's tokens.
#pragma once

#include "cuda/sm90/block/shared.cuh"

namespace steady::cuda::sm90::block {

/// What stands where there is no slot: an address instead of a condition, which costs less.
__device__ const int32_t kNoSlot = kHole;

/// Each warp finds sixteen tokens of a tile; two lanes share one.
class Finder {
 public:
  __device__ Finder(const Call& call, Shared& shared) : call_(call), shared_(shared) {}

  /// Finds the first tiles of a part that has some.
  __device__ void begin(const PartRange& range) {
    begin_unit(UnitCursor(call_, range));
    ptx::wait_for_earlier_grids();
    const int thread = ptx::thread_number();
    read_slot(token_of(thread), thread % 32 >= kWarpTokens);
#pragma unroll 1
    for (uint32_t i = 0; i < kFoundAhead; ++i) find();
  }

  /// Finds the next tile, and begins to read the slots of the one after it.
  __device__ void find() {
    const int thread = ptx::thread_number(), token = token_of(thread);
    const bool upper = thread % 32 >= kWarpTokens;
    const int scope = scope_;
    ptx::wait_copies();
    __syncwarp();
    const int32_t slot = shared_.slots[token];
    __syncwarp();
    read_slot(token, upper);
    const Pool& pool = call_.layer.scopes[scope];
    const int32_t inside = slot < 0 ? 0 : slot;  // what a hole makes of it is not used
    const int32_t page = call_.page_tokens[scope].divide(inside);
    const auto [format, data, scales] = pool.token(inside, page);
    const bool named = slot >= 0 && page < pool.page_count;
    const bool plain =
        format == STEADY_CACHE_FP8 && (reinterpret_cast<uintptr_t>(data) % sizeof(uint4) |
                                       reinterpret_cast<uintptr_t>(scales) % sizeof(uint2)) == 0;
    Found& to = shared_.found[found_.index];
    if (!upper) {
      to.data[token] = data;
      to.scales[token] = static_cast<int32_t>(scales - data);
      to.flags[token] =
          static_cast<uint8_t>((named ? Found::kNamed : 0) | (named && !plain ? Found::kSlow : 0) |
                               (scope == 1 ? Found::kSecondScope : 0));
    }
    ptx::arrive(&shared_.found_full[found_.index]);
    found_.advance();
  }

 private:
  static constexpr int kWarpTokens = kTokens / kWarps;

  /// Of a tile; two threads share one.
  __device__ static int token_of(int thread) {
    return thread / 32 % kWarps * kWarpTokens + thread % kWarpTokens;
  }

  /// Goes on to read the slots of the cursor's unit, and tells the others of it.
  __device__ void begin_unit(const UnitCursor& cursor) {
    const bool valid = cursor.valid();
    row_ = cursor.row();
    window_ = cursor.window();
    tile_begin_ = cursor.begin();
    unit_end_ = valid ? cursor.end() : tile_begin_;
    tiles_end_ = tile_begin_ + (valid ? cursor.tiles() * kTokens : 0);
    const int thread = ptx::thread_number(), warp = thread / 32 % kWarps;
    if (thread % 32 != 0) return;
    shared_.ahead[warp] = cursor;
    if (warp == 0 && valid) shared_.units[cursor.number() % kUnits] = cursor.describe();
  }

  /// Begins to read the slot of this lane's token in the next tile, if there is one.
  __device__ void read_slot(int token, bool upper) {
    if (tile_begin_ == tiles_end_) [[unlikely]] {
      __syncwarp();
      UnitCursor cursor = shared_.ahead[token / kWarpTokens];
      __syncwarp();
      if (cursor.valid()) cursor.advance(call_);
      begin_unit(cursor);
    }
    int in_scope = tile_begin_ + token;
    const bool has_slot = in_scope < unit_end_;
    scope_ = in_scope >= window_;
    if (scope_ == 1) in_scope -= window_;
    const Pool& pool = call_.layer.scopes[scope_];
    if (!upper) {
      ptx::copy_async_4(&shared_.slots[token],
                        has_slot ? pool.slots + row_ * pool.slots_stride + in_scope : &kNoSlot);
    }
    if (tile_begin_ != tiles_end_) tile_begin_ += kTokens;
  }

  const Call& call_;
  Shared& shared_;
  Ring<kFounds> found_;
  // The next tile whose slots will be read: its row and how many tokens of that the window has; as
  // positions in the row where it begins and where the tokens and the tiles of its unit end.
  int row_, window_, tile_begin_, unit_end_, tiles_end_;
  int scope_;  // of this lane's token of the last tile whose slots were read
};

}  // namespace steady::cuda::sm90::block
