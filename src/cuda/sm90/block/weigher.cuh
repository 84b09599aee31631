// SPDX-License-Identifier: Apache-2.0
// Tiles of tokens and their weights in, half of the values of answers of whole rows and of partials
// of split rows out: the work of one warpgroup.
#pragma once

#include "cuda/ptx/mma.cuh"
#include "cuda/sm90/block/shared.cuh"

namespace steady::cuda::sm90::block {

template <int kHeads>
class Weigher {
 public:
  __device__ Weigher(const LayerCall& call, int first_dim, Shared& shared)
      : call_(call), shared_(shared), first_dim_(first_dim) {}

  /// All tiles of a part that has some.
  __device__ void part() {
    bool goes_on;
    do {
      weights_buffer_.wait_full(shared_.weights_full);  // then there is a unit
      const Unit& unit = shared_.units[number_++ % kUnits];
      const int tiles = unit.tiles;
      for (int left = tiles; left > 0; --left) {
        weights_buffer_.wait_full(shared_.weights_full);
        ring_.wait_full(shared_.tokens_full);  // the scorer has waited for them, products have not
        const bool begins = left == tiles;
        if (!begins) rescale_if_moved();
        weigh(!begins);
        if (left == 1) end_unit(unit);
        ptx::arrive(shared_.weights_empty);
        ring_.advance();
        weights_buffer_.advance();
      }
      goes_on = !unit.ends_part;
    } while (goes_on);
  }

 private:
  using R = OwnRows<kHeads>;
  static constexpr int kHalves = R::kHalves;
  static constexpr int kDims = kHeadDim / kWeighers;

  /// Old sums are worth less where a reference moved.
  __device__ void rescale_if_moved() {
    if (shared_.weights.moved[R::warp()] == 0) [[likely]]
      return;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      sums_.rescale(half, shared_.weights.old[R::row(half)]);
    }
  }

  /// sums += weights · values, or without the old sums if !add_old.
  __device__ void weigh(bool add_old) {
    const auto rounded = ptx::uniform(ptx::describe_operand(&shared_.weights.rounded));
    const auto of_step = [&](int step) {
      return ptx::advance(rounded, 16 * step * sizeof(uint16_t));
    };
    const auto weighed = [&](int piece) { ptx::arrive(&shared_.tokens_empty[piece][ring_.index]); };
    sums_.template weigh<kPieceTokens>(of_step,
                                       &shared_.tokens[ring_.index][first_dim_ / kBlockDims],
                                       shared_.ones, add_old, weighed);
  }

  /// Leaves the unit where it belongs: among the slots, in the row so far, or in the answer.
  __device__ void end_unit(const Unit& unit) {
    unit_ends_.wait_full(shared_.unit_end_full);
    ptx::sync(NamedBarriers::kWeighers, kWeighers * kGroupThreads);  // nobody needs the weights
#pragma unroll
    for (int half = 0; half < kHalves; ++half) end_unit(half, unit);
    unit_ends_.advance();
  }

  __device__ void end_unit(int half, const Unit& unit) {
    const bool there = R::head(half) < heads_here(call_);
    const UnitPlace& place = unit.place;
    const HeadEnd end = shared_.unit_end[R::row(half)];
    // The products were made with rounded weights, the state with exact ones; bringing them to the
    // exact sum leaves only what rounding changed between the tokens.
    const float scale = end.sum == 0.0f ? 1.0f : end.sum / sums_.weight(half);
    if (place.joins) [[unlikely]] {
      sums_.rescale(half, scale);
      sums_.join(half, kept(), {{}, end.left_weight, end.right_weight});
      sums_.rescale(half, end.finish);
    } else {
      sums_.rescale(half, scale * end.finish);
    }
    if (place.finishes) [[likely]] {
      write_answer(half, unit.row, there);
    } else if (!place.split) [[unlikely]] {
      sums_.keep(half, kept());
    } else if (there) {
      sums_.store(half, partial_out(call_, place.slot, first_head(call_) + R::head(half)) +
                            first_dim_ + 2 * (R::lane() % 4));
    }
  }

  __device__ float4* kept() const {
    return kept_sums<kHalves, kDims>(call_, kWeighers, first_dim_ / kDims);
  }

  /// Writes the row's answer, four chunks of eight heads at a time. A quad writes a head's.
  __device__ void write_answer(int half, int row, bool there) {
    const Layer& layer = call_.layer;
    Answers& staged = shared_.weights.answers[(ptx::thread_number() - 2 * kGroupThreads) / 32];
    void* const put = staged.at(R::lane() % 8, R::lane() / 8);
    const Chunk* const get = staged.at(R::lane() / 4, R::lane() % 4);
    uint16_t* out =
        layer.out +
        row_offset(layer.out_strides, call_.queries, row, first_head(call_) + R::head(half)) +
        first_dim_ + kChunkDims * (R::lane() % 4);
    // Asked once, and not in write_chunk(): its other case would stand here sixteen times.
    const bool aligned = reinterpret_cast<uintptr_t>(out) % sizeof(Chunk) == 0;
#pragma unroll
    for (int j = 0; j < kDims / 8; j += 4, out += 4 * kChunkDims) {
      const auto values = [&](int i) {
        const float* sum = sums_.pair(half, j + i);
        return bf16x2(sum[0], sum[1]);
      };
      __syncwarp();  // what was there has been read
      ptx::store_matrices(put, values(0), values(1), values(2), values(3));
      __syncwarp();
      if (!there) continue;
      if (aligned) [[likely]] {
        *reinterpret_cast<Chunk*>(out) = *get;
      } else {
#pragma unroll 1
        for (int i = 0; i < kChunkDims; ++i) out[i] = reinterpret_cast<const uint16_t*>(get)[i];
      }
    }
  }

  const LayerCall& call_;
  Shared& shared_;
  const int first_dim_;
  uint32_t number_ = 0;  // of the unit
  Ring<kBuffers> ring_;
  Ring<1> weights_buffer_, unit_ends_;
  UnitSums<kDims> sums_;
};

}  // namespace steady::cuda::sm90::block
