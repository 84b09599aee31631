// SPDX-License-Identifier: Apache-2.0
// Tiles of tokens and their weights in, this block's share of the answers of whole rows and of the
// partials of split rows out: the work of one warpgroup. Values are the rows of products, heads the
// columns.
#pragma once

#include "cuda/sm90/columns/shared.cuh"
#include "cuda/sm90/columns/sums.cuh"

namespace steady::cuda::sm90::columns {

template <class S>
class Weigher {
 public:
  __device__ Weigher(const Call& call, Shared<S>& shared)
      : call_(call), shared_(shared), heads_(heads_here(call)), tile_(call) {}

  /// All tiles of a part that has some.
  __device__ void part(const PartRange& range) {
    for (uint32_t i = 0; i < S::kBuffers; ++i) expect_tile(i);
    tile_.start(range);
    ptx::wait_for_earlier_grids();
    while (tile_.valid()) {
      expect(&shared_.unit_end_full[unit_.index], sizeof(shared_.unit_ends[0]));
      const int tiles = tile_.tiles();
      bool ready = false;  // whether nobody has to wait for the next tile
      uint32_t buffer = 0;
#pragma unroll 1
      for (int i = 0; i < tiles; ++i) {
        if (!ready) wait_for_tile(i == 0);
        buffer = buffer_.index;
        begin_products(i > 0);
        ready = i + 1 < tiles && is_ready();  // while products are under way
        sums_.finish();
        if (i + 1 < tiles) hand_over_buffer(buffer);
      }
      end_unit(buffer);
      if (!S::kStagesApart) hand_over_buffer(buffer);
      tile_.advance(tiles);
      unit_.advance();
    }
  }

 private:
  using Sums = ColumnSums<S>;

  __device__ static int thread() { return static_cast<int>(threadIdx.x) % kGroupThreads; }
  __device__ static int warp() { return thread() / 32; }
  __device__ static int lane() { return thread() % 32; }
  /// Of this block's share.
  __device__ static int first_dim() { return ptx::cluster_rank() * S::kWeighedDims; }
  __device__ static void sync() { ptx::sync(NamedBarriers::kWeigher, kGroupThreads); }

  /// What makers send with a tile.
  static constexpr int kTileBytes =
      sizeof(Shared<S>::weights[0].lines) + sizeof(Shared<S>::old_weights[0]);
  __device__ static void expect(uint64_t* barrier, int bytes) {
    if (thread() == 0) ptx::arrive_and_expect(barrier, bytes);
  }

  /// Its weights, and its values if the twin sends them.
  __device__ void expect_tile(uint32_t buffer) {
    constexpr int kValueBytes = sizeof shared_.values[0];
    expect(&shared_.tile_full[buffer], kTileBytes + (is_scored_here<S>(buffer) ? 0 : kValueBytes));
  }

  /// Waits for the next tile. Old sums are worth less where a reference moved.
  __device__ void wait_for_tile(bool first) {
    buffer_.wait_full(shared_.tile_full);
    if (first || !moved(buffer_.index)) [[likely]]
      return;
#pragma unroll
    for (int i = 0; i < Sums::kLaneHeads; ++i)
      sums_.rescale(i, shared_.old_weights[buffer_.index][Sums::head(i)]);
  }

  /// Whether the next tile is known to be there and to find the sums as they are.
  __device__ bool is_ready() {
    return __all_sync(~0u, buffer_.is_full(shared_.tile_full)) && !moved(buffer_.index);
  }

  /// Whether a reference did, by the weights of a tile that is there.
  __device__ bool moved(uint32_t buffer) const {
    bool moved = false;
#pragma unroll
    for (int i = 0; i < Sums::kLaneHeads; ++i)
      moved = moved || shared_.old_weights[buffer][Sums::head(i)] != 1.0f;
    return __any_sync(~0u, moved);
  }

  /// Of the next tile, which is there.
  __device__ void begin_products(bool add_old) {
    const uint32_t buffer = buffer_.index;
    ptx::fence_shared_writes();  // of values and of weights
    sums_.begin(shared_.values[buffer], shared_.weights[buffer], add_old);
    expect_tile(buffer);  // in the next round
    buffer_.advance();
  }

  __device__ void hand_over_buffer(uint32_t buffer) {
    if (is_scored_here<S>(buffer)) return ptx::arrive(&shared_.values_empty[buffer]);
    __syncwarp();
    if (lane() == 0) ptx::arrive(in_twin(&shared_.values_empty[buffer]));
  }

  /// Leaves the unit, whose last tile is in that buffer, where it belongs: among the slots, in the
  /// row so far, or in the answer.
  __device__ void end_unit(uint32_t buffer) {
    unit_.wait_full(shared_.unit_end_full);
    const UnitPlace place = tile_.place();
    const auto end_of = [&](int i) { return shared_.unit_ends[unit_.index][Sums::head(i)]; };
    if constexpr (S::kStagesApart) {
      HeadEnd ends[Sums::kLaneHeads];
#pragma unroll
      for (int i = 0; i < Sums::kLaneHeads; ++i) ends[i] = end_of(i);
      hand_over_buffer(buffer);  // from here on other blocks may write a later unit's ends
      end_heads(place, [&](int i) { return ends[i]; });
    } else {
      end_heads(place, end_of);
    }
    if (place.finishes) [[likely]] {
      write_answer(tile_.row(), buffer);
    } else if (place.split) {
#pragma unroll
      for (int i = 0; i < Sums::kLaneHeads; ++i) {
        if (Sums::head(i) >= heads_) continue;
        sums_.store(
            i, partial_out(call_, place.slot, first_head(call_) + Sums::head(i)) + first_dim());
      }
    } else {
      sums_.keep(kept());
    }
  }

  /// Makes of the unit's sums what is to be left of them.
  template <class EndOf>
  __device__ void end_heads(const UnitPlace& place, const EndOf& end_of) {
    if (!place.joins) [[likely]] {
#pragma unroll
      for (int i = 0; i < Sums::kLaneHeads; ++i) {
        const HeadEnd end = end_of(i);
        sums_.rescale(i, to_exact_sum(end.sum, sums_.weight(i)) * end.finish);
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < Sums::kLaneHeads; ++i)
      sums_.rescale(i, to_exact_sum(end_of(i).sum, sums_.weight(i)));
    const typename Sums::Before before(kept());
#pragma unroll
    for (int i = 0; i < Sums::kLaneHeads; ++i) {
      const HeadEnd end = end_of(i);
      sums_.join(i, before, {{}, end.left_weight, end.right_weight});
      sums_.rescale(i, end.finish);
    }
  }

  __device__ float4* kept() const {
    return kept_sums<S::kHeads * S::kWeighedDims / kGroupThreads>(call_, 1, 0);
  }

  /// Where answers are staged.
  __device__ Answers<S>& stage(uint32_t buffer) {
    if constexpr (S::kStagesApart) {
      return shared_.answers;
    } else {
      static_assert(sizeof(Answers<S>) <= sizeof shared_.values[0]);
      return *reinterpret_cast<Answers<S>*>(shared_.values[buffer]);
    }
  }

  /// Writes the row's answer, so many heads at a time as can be staged.
  __device__ void write_answer(int row, uint32_t buffer) {
    constexpr int kHeads = Answers<S>::kHeads;
    Answers<S>& stage = this->stage(buffer);
#pragma unroll
    for (int first = 0; first < S::kHeads; first += kHeads) {
      sync();  // values, or the answers before, are not needed
      put_on(stage, first);
      sync();
      store_staged(stage, row, first);
    }
    // The twin may copy values to where they were staged.
    if constexpr (S::kTwins == 2) ptx::fence_shared_writes();
  }

  /// Answers of heads from `first` on.
  __device__ void put_on(Answers<S>& stage, int first) {
#pragma unroll
    for (int block = 0; block < S::kWeighedBlocks; ++block) {
#pragma unroll
      for (int own = 0; own < Answers<S>::kHeads / 4; ++own) {
        const int i = first / 4 + own;
        const int head = Sums::head(own), upper = block * kBlockDims + Sums::upper_dim(block);
        const uint32_t pair = sums_.pair(block, i);
        if (is_last_weighed<S>(block)) {
          *stage.at(head, upper) = static_cast<uint16_t>(pair);
          *stage.at(head, upper + 8) = static_cast<uint16_t>(pair >> 16);
        } else {
          *reinterpret_cast<uint32_t*>(stage.at(head, upper)) = pair;
        }
      }
    }
  }

  __device__ void store_staged(Answers<S>& stage, int row, int first) {
    const Layer& layer = call_.layer;
    constexpr int kChunks = S::kWeighedDims / kChunkDims, kStep = kGroupThreads / kChunks;
    const int chunk = thread() % kChunks, end = min(Answers<S>::kHeads, heads_ - first);
    int head = thread() / kChunks;
    uint16_t* out =
        layer.out +
        row_offset(layer.out_strides, call_.queries, row, first_head(call_) + first + head) +
        first_dim() + chunk * kChunkDims;
#pragma unroll 1
    for (; head < end; head += kStep, out += kStep * layer.out_strides.head)
      write_chunk(out, *reinterpret_cast<const Chunk*>(stage.at(head, chunk * kChunkDims)));
  }

  const Call& call_;
  Shared<S>& shared_;
  const int heads_;
  TileCursor tile_;
  Ring<S::kBuffers> buffer_, unit_;
  Sums sums_;
};

}  // namespace steady::cuda::sm90::columns
