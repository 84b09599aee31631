// SPDX-License-Identifier: Apache-2.0
// Tiles of tokens in, the weights of their tokens and what each unit comes to out to the weighers,
// lse out: the work of one warpgroup. Heads are the rows of products, so that a head's scores lie
// in the four lanes of a quad.
#pragma once

#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/block/finder.cuh"

namespace steady::cuda::sm90::block {

template <int kHeads>
class Scorer {
 public:
  __device__ Scorer(const Call& call, Shared& shared)
      : call_(call), shared_(shared), finder_(call, shared), head_weights_(call) {}

  /// All tiles of a part that has some.
  __device__ void part(const PartRange& range) {
    finder_.begin(range);
    bool goes_on;
    do {
      ring().wait_full(shared_.tokens_full);  // then there is a unit
      const Unit& unit = shared_.units[units_++ % kUnits];
      if (unit.begins_row) {
        queries_.wait_full(shared_.queries_full);
        queries_.advance();
      }
      head_weights_.begin_unit();
      for (int left = unit.tiles; left > 0; --left) {
        finder_.find();
        ring().wait_full(shared_.tokens_full);
        score_tile();
        ++tiles_;
      }
      end_unit(unit);
      goes_on = !unit.ends_part;
    } while (goes_on);
    ptx::wait_copies();  // of slots after the last tile
  }

 private:
  using R = OwnRows<kHeads>;
  static constexpr int kHalves = R::kHalves;
  /// Of products. They cut off what is small beside the sum so far: quarters of a vector are summed
  /// apart.
  struct Sums {
    float at[kTokens / 2];
  };

  __device__ Ring<kBuffers> ring() const { return Ring<kBuffers>::after(tiles_); }

  __device__ void score_tile() {
    Sums sums;
    multiply(&sums);
    Ring<1>::after(tiles_).wait_empty(shared_.weights_empty);
    if (R::first_head(R::warp(), 0) < shared_.heads) make_weights(sums);
    ptx::fence_shared_writes();
    ptx::arrive(shared_.weights_full);
  }

  /// scores = q · tokens.
  __device__ void multiply(Sums* scores) {
    const auto q = ptx::uniform(ptx::describe_operand(shared_.q));
    const auto tokens = ptx::uniform(ptx::describe_operand(shared_.tokens[ring().index]));
    const auto add_quarter = [&](int quarter, Sums* sums) {
      constexpr int kQuarterDims = kHeadDim / 4;
#pragma unroll
      for (int d = 0; d < kQuarterDims; d += 16) {
        const int at = quarter * kQuarterDims + d;
        const int block = at / kBlockDims;
        const uint32_t bytes = at % kBlockDims * sizeof(uint16_t);
        ptx::multiply_add<kTokens, false, sizeof(Octet)>(
            sums->at, ptx::advance(q, block * sizeof(Block) + bytes),
            ptx::advance(tokens, block * sizeof(Octet::blocks[0]) + bytes), d > 0);
      }
      ptx::commit_products();
    };
    Sums second;
    ptx::begin_products();
    add_quarter(0, scores);
    add_quarter(1, &second);
    ptx::wait_products<0>();
    ptx::pin(scores->at);
    ptx::pin(second.at);
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) scores->at[i] += second.at[i];
    Sums third;
    ptx::pin(second.at);  // added before it is written again
    ptx::begin_products();
    add_quarter(2, &second);
    add_quarter(3, &third);
    ptx::wait_products<0>();
    ptx::pin(second.at);
    ptx::pin(third.at);
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) scores->at[i] += second.at[i] + third.at[i];
  }

  /// The tile's weights, and what the sums so far are worth after references moved.
  __device__ void make_weights(const Sums& all) {
    float scores[kHalves][InQuad::kScores], sums[kHalves], old_weight[kHalves];
    uint32_t weights[kHalves][InQuad::kScores / 2];
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      old_weight[half] = 1.0f;
#pragma unroll
      for (int k = 0; k < InQuad::kScores; ++k) {
        const int at = k / 2 * 4 + 2 * half + k % 2;
        scores[half][k] = all.at[at];
      }
    }
    const int lane = R::lane(), warp = R::warp();
    // Each lane looks at one of the tile's eights of tokens.
    const uint32_t* const named = shared_.named[ring().index];
    const uint32_t some = named[lane % 8];
    head_weights_.see(__any_sync(~0u, some != 0));
    if (head_weights_.any_scaled() || __any_sync(~0u, some != ~0u)) [[unlikely]] {
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        head_weights_.scale(half, scores[half]);
        hide_unnamed(named, lane, scores[half]);
      }
    }
    bool moved = false;
    for (;;) {
      bool large = false;
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        sums[half] = head_weights_.weigh(half, scores[half], weights[half]);
        large = large || head_weights_.are_large(sums[half]);
      }
      if (!__any_sync(~0u, large)) [[likely]]
        break;
#pragma unroll
      for (int half = 0; half < kHalves; ++half)
        head_weights_.move_reference(half, scores[half], sums[half], &old_weight[half]);
      moved = true;
    }
    Weights& to = shared_.weights;
    const int line = 16 * warp + lane % 8, chunk = lane / 8;
    // Of the two stores a lane gives the same line, four chunks apart.
    auto at = reinterpret_cast<uintptr_t>(to.rounded.at(line, chunk));
#pragma unroll
    for (int half = 0; half < kHalves; ++half, at += 8 * sizeof(Block::lines[0])) {
      head_weights_.add(half, sums[half]);
      const auto& pairs = weights[half];
      ptx::store_matrices(reinterpret_cast<void*>(at), pairs[0], pairs[1], pairs[2], pairs[3]);
      ptx::store_matrices(reinterpret_cast<void*>(at ^ 4 * sizeof(Chunk)), pairs[4], pairs[5],
                          pairs[6], pairs[7]);
    }
    if (lane == 0) to.moved[warp] = moved;
    if (!moved) [[likely]]
      return;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      if (lane % 4 == 0) to.old[R::row(half)] = old_weight[half];
    }
  }

  /// What no slot names has no weight.
  __device__ static void hide_unnamed(const uint32_t* named, int lane,
                                      float (&scores)[InQuad::kScores]) {
    const int first_bit = 8 * (lane % 4);
#pragma unroll
    for (int k = 0; k < InQuad::kScores; ++k) {
      if ((named[k / 2] >> (first_bit + 4 * (k % 2)) & 1) == 0) scores[k] = -INFINITY;
    }
  }

  /// Tells the weighers what becomes of the unit's sums, and the caller the lse of a row that is
  /// done.
  __device__ void end_unit(const Unit& unit) {
#pragma unroll
    for (int half = 0; half < kHalves; ++half) end_unit(half, unit);
    ptx::arrive(shared_.unit_end_full);
  }

  __device__ void end_unit(int half, const Unit& unit) {
    const int head_of_all = first_head(call_) + R::head(half);
    const float sum = head_weights_.unit_sum(half);
    if (R::lane() % 4 != 0 || R::head(half) >= shared_.heads) return;
    end_head(
        call_, unit.place, unit.row, head_of_all, sum, head_weights_.state(half, sum),
        [&] { return sink_of(call_, head_of_all); }, &shared_.row_so_far[R::head(half)], true,
        [&](const HeadEnd& end) { shared_.unit_end[R::row(half)] = end; });
  }

  const Call& call_;
  Shared& shared_;
  Finder finder_;
  uint32_t units_ = 0, tiles_ = 0;  // so far
  Ring<1> queries_;
  HeadWeights<kHalves, InQuad> head_weights_;
};

}  // namespace steady::cuda::sm90::block
