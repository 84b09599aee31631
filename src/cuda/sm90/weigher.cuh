// SPDX-License-Identifier: Apache-2.0
// Tiles of tokens and their weights in, half of the values of answers of whole rows and of partials
// of split rows out: the work of one warpgroup.
#pragma once

#include "cuda/ptx/mma.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/shared.cuh"

namespace steady::cuda::sm90 {

template <int kHeads>
class Weigher {
 public:
  __device__ Weigher(const LayerCall& call, int first_dim, Shared& shared)
      : call_(call), shared_(shared), first_dim_(first_dim) {}

  /// All tiles of a part that has some.
  __device__ void part() {
    bool goes_on;
    do {
      weights_.wait_full(shared_.weights_full);  // then there is a unit
      const Unit& unit = shared_.units[number_++ % kUnits];
      const int tiles = unit.tiles;
      for (int left = tiles; left > 0; --left) {
        weights_.wait_full(shared_.weights_full);
        ring_.wait_full(shared_.tokens_full);  // the scorer has waited for them, products have not
        const bool begins = left == tiles;
        if (!begins) rescale_if_moved();
        weigh(!begins);
        hand_over(&shared_.tokens_empty[ring_.index]);
        if (left == 1) end_unit(unit);
        hand_over(shared_.weights_empty);
        ring_.advance();
        weights_.advance();
      }
      goes_on = !unit.ends_part;
    } while (goes_on);
  }

 private:
  using R = Rows<kHeads>;
  static constexpr int kHalves = R::kHalves;
  static constexpr int kDims = kHeadDim / kWeighers;
  static constexpr int kSteps = kTokens / 16;  // of a product over all tokens
  static constexpr int kPairs = kDims / 8;     // of values, in each of a lane's rows
  /// Of one product; more columns would take more registers than the kernel begins with.
  static constexpr int kPartDims = 128, kParts = kDims / kPartDims;

  __device__ static int thread() { return ptx::thread_number() % kGroupThreads; }
  __device__ static int warp() { return thread() / 32; }
  __device__ static int lane() { return thread() % 32; }
  __device__ static int head(int half) { return R::first_head(warp(), half) + lane() / 4; }
  /// Of products.
  __device__ static int row(int half) { return 16 * warp() + 8 * half + lane() / 4; }

  /// Old sums are worth less where a reference moved.
  __device__ void rescale_if_moved() {
    if (shared_.weights.moved[warp()] == 0) [[likely]]
      return;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      const float factor = shared_.weights.old[row(half)];
      rescale(half, factor);
      weight_[2 * half] *= factor;
    }
  }

  /// sums += weights · values, or without the old sums if !add.
  __device__ void weigh(bool add_old) {
    pin();
    ptx::begin_products();
    const auto rounded = ptx::uniform(ptx::describe_operand(&shared_.weights.rounded));
    const auto ones = ptx::uniform(ptx::describe_operand(shared_.ones));
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const auto a = ptx::advance(rounded, 16 * step * sizeof(uint16_t));
      const bool add = add_old || step > 0;
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const auto values = ptx::uniform(ptx::describe_operand(
            &shared_.tokens[ring_.index][(first_dim_ + part * kPartDims) / kBlockDims],
            sizeof(Block)));
        ptx::multiply_add<kPartDims, true>(
            sums_[part].at, a, ptx::advance(values, 16 * step * sizeof(Block::lines[0])), add);
      }
      ptx::multiply_add<8, false>(weight_, a, ptx::advance(ones, 16 * step * sizeof(uint16_t)),
                                  add);
    }
    ptx::commit_products();
    ptx::wait_products<0>();
    pin();
  }

  __device__ void pin() {
    for (auto& part : sums_) ptx::pin(part.at);
    ptx::pin(weight_);
  }

  /// Pair `j`, of values 8 j + 2 (lane % 4) and the next.
  __device__ float* pair(int half, int j) {
    return &sums_[8 * j / kPartDims].at[4 * (j % (kPartDims / 8)) + 2 * half];
  }

  __device__ void rescale(int half, float factor) {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      pair(half, j)[0] *= factor;
      pair(half, j)[1] *= factor;
    }
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
    const bool there = head(half) < heads_here(call_);
    const UnitPlace& place = unit.place;
    const HeadEnd end = shared_.unit_end[row(half)];
    float* out = partial_out(call_, place.partial, first_head(call_) + head(half)) + first_dim_ +
                 2 * (lane() % 4);
    // The products were made with rounded weights, the state with exact ones; bringing them to the
    // exact sum leaves only what rounding changed between the tokens.
    const float scale = end.sum == 0.0f ? 1.0f : end.sum / weight_[2 * half];
    if (place.joins) [[unlikely]] {
      rescale(half, scale);
      if (there) join(half, out, end);
      rescale(half, end.finish);
    } else {
      rescale(half, scale * end.finish);
    }
    if (place.finishes) [[likely]] {
      write_answer(half, unit.row, there);
    } else if (there) {
      store(half, out);
    }
  }

  /// Adds the row so far.
  __device__ void join(int half, const float* left, const HeadEnd& end) {
    const Merged merged = {{}, end.left_weight, end.right_weight};
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const float2 before = *reinterpret_cast<const float2*>(left + 8 * j);
      float* sum = pair(half, j);
      sum[0] = merge_out(before.x, sum[0], merged);
      sum[1] = merge_out(before.y, sum[1], merged);
    }
  }

  __device__ void store(int half, float* out) {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const float* sum = pair(half, j);
      *reinterpret_cast<float2*>(out + 8 * j) = {sum[0], sum[1]};
    }
  }

  /// Writes the row's answer, four chunks of eight heads at a time. A quad writes a head's.
  __device__ void write_answer(int half, int row, bool there) {
    const Layer& layer = call_.layer;
    Answers& staged = shared_.weights.answers[(ptx::thread_number() - 2 * kGroupThreads) / 32];
    void* const put = staged.at(lane() % 8, lane() / 8);
    const Chunk* const get = staged.at(lane() / 4, lane() % 4);
    uint16_t* out =
        layer.out +
        row_offset(layer.out_strides, call_.queries, row, first_head(call_) + head(half)) +
        first_dim_ + kChunkDims * (lane() % 4);
    const bool aligned = reinterpret_cast<uintptr_t>(out) % sizeof(Chunk) == 0;
#pragma unroll
    for (int j = 0; j < kPairs; j += 4, out += 4 * kChunkDims) {
      const auto values = [&](int i) {
        const float* sum = pair(half, j + i);
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

  /// Of products: heads by values.
  struct Sums {
    float at[kPartDims / 2];
  };

  const LayerCall& call_;
  Shared& shared_;
  const int first_dim_;
  uint32_t number_ = 0;  // of the unit
  Ring<kBuffers> ring_;
  Ring<1> weights_, unit_ends_;
  // Of the unit so far: heads by values, and each head's weight, rounded as in the products.
  Sums sums_[kParts];
  float weight_[4];
};

}  // namespace steady::cuda::sm90
