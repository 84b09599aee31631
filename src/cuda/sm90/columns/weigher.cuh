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
  __device__ Weigher(const LayerCall& call, Shared<S>& shared)
      : call_(call), shared_(shared), heads_(heads_here(call)), tile_(call) {}

  /// All tiles of a part that has some.
  __device__ void part(const PartRange& range) {
    tile_.start(range);
    ptx::wait_for_earlier_grids();
    while (tile_.valid()) {
      const int tiles = tile_.tiles();
#pragma unroll 1
      for (int i = 0; i < tiles; ++i) {
        const bool first = i == 0, last = i + 1 == tiles;
        wait_for_weights(last);
        if (!first) rescale_if_moved();
        sums_.weigh(shared_.values[buffer_.index], shared_.weights[buffer_.index], !first);
        if (last) [[unlikely]]
          end_unit();
        hand_over(&shared_.values_empty[buffer_.index]);
        buffer_.advance();
      }
      tile_.advance(tiles);
    }
  }

 private:
  using Sums = ColumnSums<S>;

  __device__ static int thread() { return static_cast<int>(threadIdx.x) % kGroupThreads; }
  __device__ static int warp() { return thread() / 32; }
  __device__ static int lane() { return thread() % 32; }
  /// Of this block's share.
  __device__ static int first_dim() { return ptx::cluster_rank() * S::kOwnDims; }
  __device__ static void sync() { ptx::sync(NamedBarriers::kWeigher, kGroupThreads); }

  __device__ void wait_for_weights(bool last_of_unit) {
    uint64_t* full = &shared_.weights_full[buffer_.index];
    if (thread() == 0) {
      constexpr int kTile = sizeof(shared_.weights[0].lines) + sizeof(shared_.old_weights[0]);
      ptx::arrive_and_expect(full, last_of_unit ? kTile + sizeof(shared_.unit_ends[0]) : kTile);
    }
    buffer_.wait_full(shared_.values_full);
    ptx::wait(full, buffer_.parity);
    ptx::fence_shared_writes();  // of values and of weights
  }

  /// Old sums are worth less where a reference moved.
  __device__ void rescale_if_moved() {
    const auto& old = shared_.old_weights[buffer_.index];
    float factors[Sums::kLaneHeads];
    bool moved = false;
#pragma unroll
    for (int i = 0; i < Sums::kLaneHeads; ++i) {
      factors[i] = old[Sums::head(i)];
      moved = moved || factors[i] != 1.0f;
    }
    if (!__any_sync(~0u, moved)) [[likely]]
      return;
#pragma unroll
    for (int i = 0; i < Sums::kLaneHeads; ++i) sums_.rescale(i, factors[i]);
  }

  /// Leaves the unit where it belongs: among the slots, in the row so far, or in the answer.
  __device__ void end_unit() {
    const UnitPlace place = tile_.place();
#pragma unroll
    for (int i = 0; i < Sums::kLaneHeads; ++i) {
      const HeadEnd end = shared_.unit_ends[buffer_.index][Sums::head(i)];
      end_sums(sums_, i, end, place, [&] { return kept(); });
      if (!place.finishes && !place.split) [[unlikely]]
        sums_.keep(i, kept());
      if (place.split && Sums::head(i) < heads_) {
        sums_.store(
            i, partial_out(call_, place.slot, first_head(call_) + Sums::head(i)) + first_dim());
      }
    }
    if (place.finishes) [[likely]]
      write_answer(tile_.row());
  }

  __device__ float4* kept() const {
    return kept_sums<S::kHeads * S::kOwnDims / kGroupThreads>(call_, 1, 0);
  }

  /// Writes the row's answer, through the place of the values that were weighed last.
  __device__ void write_answer(int row) {
    auto& staged = *reinterpret_cast<Answers<S>*>(shared_.values[buffer_.index]);
    static_assert(sizeof staged <= sizeof shared_.values[0]);
    sync();  // values are not needed
#pragma unroll
    for (int block = 0; block < S::kOwnBlocks; ++block) {
#pragma unroll
      for (int i = 0; i < Sums::kLaneHeads; ++i) {
        const int head = Sums::head(i), upper = block * kBlockDims + Sums::upper_dim(block);
        const uint32_t pair = sums_.pair(block, i);
        if (is_last_block<S>(block)) {
          *staged.at(head, upper) = static_cast<uint16_t>(pair);
          *staged.at(head, upper + 8) = static_cast<uint16_t>(pair >> 16);
        } else {
          *reinterpret_cast<uint32_t*>(staged.at(head, upper)) = pair;
        }
      }
    }
    sync();
    const Layer& layer = call_.layer;
    constexpr int kChunks = S::kOwnDims / kChunkDims, kStep = kGroupThreads / kChunks;
    const int chunk = thread() % kChunks;
    int head = thread() / kChunks;
    uint16_t* out = layer.out +
                    row_offset(layer.out_strides, call_.queries, row, first_head(call_) + head) +
                    first_dim() + chunk * kChunkDims;
#pragma unroll 1
    for (; head < heads_; head += kStep, out += kStep * layer.out_strides.head)
      write_chunk(out, *reinterpret_cast<const Chunk*>(staged.at(head, chunk * kChunkDims)));
    sync();  // racecheck doesn't see what a __syncwarp orders before the arrival of one lane
  }

  const LayerCall& call_;
  Shared<S>& shared_;
  const int heads_;
  TileCursor tile_;
  Ring<S::kBuffers> buffer_;
  Sums sums_;
};

}  // namespace steady::cuda::sm90::columns
