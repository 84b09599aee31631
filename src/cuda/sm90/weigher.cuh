// SPDX-License-Identifier: Apache-2.0
// Tiles of tokens and their weights in, this block's share of the answers of whole rows and of the
// partials of split rows out: the work of one warpgroup.
#pragma once

#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/shared.cuh"

namespace steady::cuda::sm90 {

template <class S>
class Weigher {
 public:
  __device__ Weigher(const LayerCall& call, const PartRange& range, Shared<S>& shared)
      : call_(call), shared_(shared), heads_(heads_here(call)), tile_(call, range) {}

  /// All tiles of this part.
  __device__ void part() {
    for (; tile_.valid(); tile_.advance()) {
      tokens_.wait_full(shared_.tokens_full);
      weights_.wait_full(shared_.weights_full);
      weigh();
      hand_over(&shared_.tokens_empty[tokens_.index]);
      hand_over_to_cluster<S>(&shared_.weights_empty[weights_.index]);
      tokens_.advance();
      weights_.advance();
      if (tile_.last_of_unit()) [[unlikely]]
        end_unit();
    }
  }

 private:
  static constexpr int kHalves = S::kHalves;
  static constexpr int kPairs = S::kOwnDims / 8;  // of neighbours, in each of a lane's rows
  /// Of one product; more columns would take more registers than the kernel begins with.
  static constexpr int kPartDims = 128, kParts = S::kOwnDims / kPartDims;

  /// Of this block's share; asked for where it is needed, because there is no register to keep it.
  __device__ static int first_dim() { return ptx::cluster_rank() * S::kOwnDims; }
  __device__ static int warp() { return static_cast<int>(threadIdx.x) / 32 % kWarps; }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ static int row(int half) { return 16 * warp() + 8 * half + lane() / 4; }
  __device__ static int head(int half) {
    return 8 * S::octet_of(warp(), half, ptx::cluster_rank()) + lane() / 4;
  }

  /// sums = sums * old weights + weights · values.
  __device__ void weigh() {
    const bool first = tile_.first_of_unit();
    float old_weight[kHalves];
    bool moved = false;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      old_weight[half] = shared_.old_weight[weights_.index][row(half)];
      moved = moved || (head(half) < heads_ && old_weight[half] != 1.0f);
    }
    if (!first && __any_sync(~0u, moved)) [[unlikely]] {
#pragma unroll
      for (int half = 0; half < kHalves; ++half) rescale(half, old_weight[half]);
    }
    for (auto& part : sums_) ptx::pin(part);
    ptx::pin(weight_);
    ptx::begin_products();
    const auto weights = ptx::uniform(ptx::describe_operand(&shared_.weights[weights_.index]));
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const auto values = ptx::uniform(ptx::describe_operand(
          &shared_.tokens[tokens_.index][part * kPartDims / kBlockDims], sizeof(Block)));
#pragma unroll
      for (int token = 0; token < kTokens; token += 16) {
        ptx::multiply_add<kPartDims, true>(
            sums_[part], ptx::advance(weights, token * sizeof(uint16_t)),
            ptx::advance(values, token * sizeof(Block::lines[0])), !first || token > 0);
      }
    }
    const auto ones = ptx::describe_operand(shared_.ones);
#pragma unroll
    for (int token = 0; token < kTokens; token += 16) {
      const uint32_t bytes = token * sizeof(uint16_t);
      ptx::multiply_add<8, false>(weight_, ptx::advance(weights, bytes), ptx::advance(ones, bytes),
                                  !first || token > 0);
    }
    ptx::commit_products();
    ptx::wait_products<0>();
    for (auto& part : sums_) ptx::pin(part);
    ptx::pin(weight_);
  }

  /// Pair `j`, of values 8 j + 2 (lane % 4) and the next.
  __device__ float* pair(int half, int j) {
    return &sums_[8 * j / kPartDims][4 * (j % (kPartDims / 8)) + 2 * half];
  }

  __device__ void rescale(int half, float factor) {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      pair(half, j)[0] *= factor;
      pair(half, j)[1] *= factor;
    }
    weight_[2 * half] *= factor;
  }

  /// Leaves the unit where it belongs: among the slots, in the row so far, or in the answer.
  __device__ void end_unit() {
    unit_.wait_full(shared_.unit_full);
    UnitResult results[kHalves];
#pragma unroll
    for (int half = 0; half < kHalves; ++half) results[half] = shared_.results[row(half)];
    hand_over_to_cluster<S>(&shared_.unit_empty[unit_.index]);
    unit_.advance();
    const UnitPlace place = place_of<S>(call_, tile_.row(), tile_.unit());
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      // The products were made with rounded weights, the state with exact ones; bringing them to
      // the exact sum leaves only what rounding changed between the tokens.
      const UnitResult& result = results[half];
      rescale(half, result.sum == 0.0f ? 1.0f : result.sum / weight_[2 * half]);
      const bool there = head(half) < heads_;
      float* out = partial_out(call_, place.partial, first_head(call_) + head(half)) + first_dim() +
                   2 * (lane() % 4);
      if (place.joins && there) join(half, out, {{}, result.left_weight, result.right_weight});
      if (place.finishes) {
        finish(half, result.out_weight, there);
      } else if (there) {
        store(half, out);
      }
    }
  }

  __device__ void join(int half, const float* left, const Merged& merged) {
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

  /// Writes the row's answer. The lanes of a quad turn four pairs each of them, eight values apart,
  /// into eight values each.
  __device__ void finish(int half, float out_weight, bool there) {
    const Layer& layer = call_.layer;
    uint16_t* out =
        layer.out +
        row_offset(layer.out_strides, call_.queries, tile_.row(), first_head(call_) + head(half)) +
        first_dim() + kChunkDims * (lane() % 4);
    const bool odd = lane() % 2 != 0, upper = lane() % 4 / 2 != 0;
#pragma unroll
    for (int first = 0; first < kPairs; first += 4) {
      uint32_t pairs[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* sum = pair(half, first + i);
        pairs[i] = bf16x2(sum[0] * out_weight, sum[1] * out_weight);
      }
      swap(odd, 1, &pairs[0], &pairs[1]);
      swap(odd, 1, &pairs[2], &pairs[3]);
      swap(upper, 2, &pairs[0], &pairs[2]);
      swap(upper, 2, &pairs[1], &pairs[3]);
      if (there) write_chunk(out + 8 * first, {pairs[0], pairs[1], pairs[2], pairs[3]});
    }
  }

  /// Of two lanes, the one gives its second for the other's first.
  __device__ static void swap(bool other, int mask, uint32_t* first, uint32_t* second) {
    const uint32_t received = __shfl_xor_sync(~0u, other ? *first : *second, mask);
    (other ? *first : *second) = received;
  }

  const LayerCall& call_;
  Shared<S>& shared_;
  const int heads_;
  TileCursor tile_;
  Ring<S::kTokenBuffers> tokens_;
  Ring<S::kBuffers> weights_;
  Ring<1> unit_;
  // Of the unit so far: heads by values, and each head's weight, rounded as in the products.
  float sums_[kParts][kPartDims / 2], weight_[4];
};

}  // namespace steady::cuda::sm90
