// SPDX-License-Identifier: Apache-2.0
// Tiles' weights and tokens in, this block's share of the answers of whole rows and of the partials
// of split rows out: the work of one warpgroup.
//
// What tiles add up to is relative to a reference of the unit, a whole number like those of the
// tiles. So bringing a tile's weights to it multiplies them by a power of two and rounds nothing.
#pragma once

#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/mma.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/shared.cuh"

namespace steady::cuda::sm90 {

template <class S>
class Weigher {
 public:
  __device__ Weigher(const LayerCall& call, int rank, Shared<S>& shared)
      : call_(call), rank_(rank), shared_(shared), heads_(heads_here(call)) {}

  /// All tiles of this part.
  __device__ void part() {
    for (;; tile_.advance()) {
      tile_.wait_full(shared_.tiles_full);
      const Tile& tile = shared_.tiles[tile_.index];
      if (!tile.there) return;
      const bool first = tile.first_of_unit;
      if (first) [[unlikely]]
        begin_unit();
      uint32_t weights[kHalves][kLanePairs] = {};
      if (S::first_head(warp(), 0) < heads_) take_weights(tile.turn, first, weights);
      auto pieces = tokens_;
      pieces.advance(pieces_to_weigh<S>(rank_, tile.round_tiles, tile.turn));
      weigh(pieces, weights, first);
      if (tile.turn + 1 == tile.round_tiles)
        tokens_.advance(round_pieces<S>(rank_, tile.round_tiles));
      if (tile.last_of_unit) [[unlikely]]
        end_unit(tile);
      hand_over(&shared_.tiles_empty[tile_.index]);
    }
  }

 private:
  static constexpr int kHalves = S::kHalves;
  static constexpr int kLanePairs = kTokens / 8;  // of weights, for one head
  static constexpr int kSteps = kTokens / 16;     // of a product over all tokens
  static constexpr int kPairs = S::kOwnDims / 8;  // of values, in each of a lane's rows

  /// A tile's reference may lie so far above the unit's before that one moves: moving takes a
  /// product for each sum, and weights up to 2^8 do no harm.
  static constexpr float kAbove = 8.0f;
  static constexpr float kLn2 = 0.693147180559945309417f;

  __device__ static int thread() { return static_cast<int>(threadIdx.x) % kGroupThreads; }
  __device__ static int warp() { return thread() / 32; }
  __device__ static int lane() { return thread() % 32; }
  __device__ static int head(int half) { return S::first_head(warp(), half) + lane() / 4; }
  __device__ int first_dim() const { return rank_ * S::kOwnDims; }

  __device__ void begin_unit() {
    named_ = false;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      reference_[half] = kLowest;
      exact_[half] = rounded_[half] = 0.0f;
    }
  }

  /// Brings the next tile's weights to the unit's reference, or the sums so far to the tile's.
  __device__ void take_weights(int scorer, bool first, uint32_t (&weights)[kHalves][kLanePairs]) {
    wait_for_weights(scorer);
    const WarpWeights<S>& from = shared_.weights[scorer][warp()];
    float old_weight[kHalves];
    bool moved = false;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      const TileSums tile = from.sums[8 * half + lane() / 4];
      const float before = reference_[half];
      if (tile.reference > before + kAbove) reference_[half] = tile.reference;
      old_weight[half] = ptx::exp2_approximate(before - reference_[half]);
      const float weight = ptx::exp2_approximate(tile.reference - reference_[half]);
      exact_[half] = __fmaf_rn(exact_[half], old_weight[half], __fmul_rn(tile.exact, weight));
      rounded_[half] = __fmaf_rn(rounded_[half], old_weight[half], __fmul_rn(tile.rounded, weight));
      named_ = named_ || tile.named != 0.0f;
      moved = moved || old_weight[half] != 1.0f;
      const uint32_t weight_pair = bf16x2(weight, weight);
#pragma unroll
      for (int i = 0; i < kLanePairs / 4; ++i) {
        const uint4 pairs = from.pairs[2 * half + i][lane()];
        weights[half][4 * i] = ptx::multiply_bf16x2(pairs.x, weight_pair);
        weights[half][4 * i + 1] = ptx::multiply_bf16x2(pairs.y, weight_pair);
        weights[half][4 * i + 2] = ptx::multiply_bf16x2(pairs.z, weight_pair);
        weights[half][4 * i + 3] = ptx::multiply_bf16x2(pairs.w, weight_pair);
      }
    }
    __syncwarp();
    if (lane() == 0) ptx::arrive(ptx::in_block(&shared_.weights_empty[warp()], scorer));
    if (first || !__any_sync(~0u, moved)) return;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) rescale(half, old_weight[half]);
  }

  __device__ void wait_for_weights(int scorer) {
    if (scorer == rank_) {
      ptx::sync(NamedBarriers::kWeights + warp(), 64);
      return;
    }
    uint64_t* full = &shared_.weights_full[scorer][warp()];
    if (lane() == 0) ptx::arrive_and_expect(full, sizeof(WarpWeights<S>));
    __syncwarp();
    ptx::wait(full, weights_parities_ >> scorer & 1);
    weights_parities_ ^= 1u << scorer;
  }

  /// sums += weights · values, or without the old sums. Waits until they are there: products read
  /// weights in registers as long as they are under way, but the compiler gives the registers away.
  __device__ void weigh(Ring<S::kBuffers> piece, const uint32_t (&weights)[kHalves][kLanePairs],
                        bool first) {
    uint64_t* done[S::kOwnPieces];
    pin();
#pragma unroll
    for (int part = 0; part < S::kOwnPieces; ++part) {
      piece.wait_full(shared_.tokens_full);
      const auto values =
          ptx::uniform(ptx::describe_operand(shared_.tokens[piece.index], sizeof(Block)));
      ptx::begin_products();
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        uint32_t a[4] = {};
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
          a[half] = weights[half][2 * step];
          a[2 + half] = weights[half][2 * step + 1];
        }
        ptx::multiply_add<S::kPieceDims, true>(
            sums_[part].at, a, ptx::advance(values, 16 * step * sizeof(Block::lines[0])),
            !first || step > 0);
      }
      ptx::commit_products();
      done[part] = &shared_.tokens_empty[piece.index];
      piece.advance();
    }
    ptx::wait_products<0>();
    pin();
    for (uint64_t* const buffer : done) hand_over(buffer);
  }

  __device__ void pin() {
    for (auto& part : sums_) ptx::pin(part.at);
  }

  /// Pair `j`, which lies where values 8 j + 2 (lane % 4) and the next would be.
  __device__ float* pair(int half, int j) {
    return &sums_[8 * j / S::kPieceDims].at[4 * (j % (S::kPieceDims / 8)) + 2 * half];
  }
  /// Whether the values of pair `j` are interleaved.
  __device__ bool interleaved(int j) const {
    return first_dim() / kBlockDims + 8 * j / kBlockDims < kBlocks - 1;
  }

  __device__ void rescale(int half, float factor) {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      pair(half, j)[0] *= factor;
      pair(half, j)[1] *= factor;
    }
  }

  /// Leaves the unit where it belongs: among the slots, in the row so far, or in the answer.
  __device__ void end_unit(const Tile& tile) {
#pragma unroll
    for (int half = 0; half < kHalves; ++half) end_unit(half, tile.row, tile.place);
  }

  __device__ void end_unit(int half, int row, const UnitPlace& place) {
    const bool there = head(half) < heads_;
    const int head_of_all = first_head(call_) + head(half);
    float* out = partial_out(call_, place.partial, head_of_all) + first_dim();
    float sum = exact_[half];
    // Of tokens whose scores are all beyond what a float can tell, nothing is known.
    if (sum == 0.0f && named_) sum = NAN;
    SoftmaxState state = sum == 0.0f ? SoftmaxState{} : SoftmaxState{reference_[half] * kLn2, sum};
    // The products were made with rounded weights, the state with exact ones; bringing them to the
    // exact sum leaves only what rounding changed between the tokens.
    float factor = sum == 0.0f ? 1.0f : sum / rounded_[half];
    if (place.joins) [[unlikely]] {
      const Merged merged = merge(row_so_far(half), state);
      rescale(half, factor);
      if (there) join(half, out, merged);
      state = merged.state;
      factor = 1.0f;
    }
    __syncwarp();  // the quad has read it
    if (lane() % 4 == 0) row_so_far(half) = state;
    // One lane of one block tells what is known of the head.
    const bool tells = there && lane() % 4 == 0 && first_dim() == 0;
    if (place.finishes) [[likely]] {
      Finished finished = {};
      if (there) finished = finish_head(call_, state, head_of_all);
      if (tells) write_lse(call_, finished, row, head_of_all);
      rescale(half, factor * finished.out_weight);
      write_answer(half, row, there);
    } else {
      rescale(half, factor);
      if (there) store(half, out);
      if (tells && place.split) partial_states(call_, place.partial)[head_of_all] = state;
    }
  }

  /// A head's state up to the last unit. There are syncs of the warp enough between two units.
  __device__ SoftmaxState& row_so_far(int half) { return shared_.row_so_far[head(half)]; }

  /// Calls visit(sum, its value in `vector`) for all sums of one row.
  template <class Visit>
  __device__ void for_values(int half, float* vector, const Visit& visit) {
    const int c = lane() % 4;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      float* values = vector + 8 * j;
      values += interleaved(j) ? 4 * (c / 2) + c % 2 : 2 * c;
      visit(pair(half, j)[0], values[0]);
      visit(pair(half, j)[1], values[interleaved(j) ? 2 : 1]);
    }
  }

  /// Adds the row so far, which `merged` weighs.
  __device__ void join(int half, float* left, const Merged& merged) {
    for_values(half, left,
               [&](float& sum, const float& before) { sum = merge_out(before, sum, merged); });
  }

  __device__ void store(int half, float* out) {
    for_values(half, out, [](const float& sum, float& value) { value = sum; });
  }

  /// Writes the row's answer. Two lanes turn two pairs each of them, eight values apart, into four
  /// values each, so that a quad fills a sector of 32 bytes.
  __device__ void write_answer(int half, int row, bool there) {
    const Layer& layer = call_.layer;
    const bool odd = lane() % 2 != 0;
    uint16_t* out =
        layer.out +
        row_offset(layer.out_strides, call_.queries, row, first_head(call_) + head(half)) +
        first_dim() + 2 * (lane() % 4) + (odd ? 6 : 0);
    const bool aligned = reinterpret_cast<uintptr_t>(out) % sizeof(uint2) == 0;
    if (__all_sync(~0u, aligned)) [[likely]] {
      for_quads(half, [&](int j, const uint2& values) {
        if (there) *reinterpret_cast<uint2*>(out + 8 * j) = values;
      });
    } else {
      for_quads(half, [&](int j, const uint2& values) {
        if (!there) return;
        for (int i = 0; i < 4; ++i)
          out[8 * j + i] = static_cast<uint16_t>((i < 2 ? values.x : values.y) >> (16 * (i % 2)));
      });
    }
  }

  /// write(number of the first of two pairs, the lane's four values of them).
  template <class Write>
  __device__ void for_quads(int half, const Write& write) {
    const bool odd = lane() % 2 != 0;
#pragma unroll
    for (int j = 0; j < kPairs; j += 2) {
      const float *first = pair(half, j), *second = pair(half, j + 1);
      uint2 values = {bf16x2(first[0], first[1]), bf16x2(second[0], second[1])};
      const uint32_t received = __shfl_xor_sync(~0u, odd ? values.x : values.y, 1);
      (odd ? values.x : values.y) = received;
      write(j, interleaved(j) ? in_order(values) : values);
    }
  }

  /// Of products: heads by values.
  struct Sums {
    float at[S::kPieceDims / 2];
  };

  const LayerCall& call_;
  const int rank_;
  Shared<S>& shared_;
  const int heads_;
  Ring<kTiles> tile_;
  Ring<S::kBuffers> tokens_;
  uint32_t weights_parities_ = 0;  // of the other blocks' barriers, a bit for each
  // Of the unit so far: heads by values; for this lane's heads the reference and what weights add
  // up to, exact and as rounded for the products; whether any token was named.
  Sums sums_[S::kOwnPieces];
  float reference_[kHalves], exact_[kHalves], rounded_[kHalves];
  bool named_;
};

}  // namespace steady::cuda::sm90
