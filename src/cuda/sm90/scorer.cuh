// SPDX-License-Identifier: Apache-2.0
// Tiles of tokens in, their weights out: the work of one warpgroup. It scores a tile for all heads
// of the block, turns scores into weights for the weighers, and keeps each head's state. Heads are
// the columns of all products, so that no head is padded to 64.
//
// Maxima and sums are not gathered from all threads for each tile: weights are relative to a
// reference that moves only where a score exceeds it by far, and each thread keeps sums of its own
// until a unit ends.
#pragma once

#include "cuda/ptx/mma.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/columns.cuh"
#include "cuda/sm90/shared.cuh"

namespace steady::cuda::sm90 {

template <int kHeads>
class Scorer {
 public:
  __device__ Scorer(const LayerCall& call, const PartRange& range, Shared<kHeads>& shared)
      : call_(call),
        range_(range),
        shared_(shared),
        thread_(static_cast<int>(threadIdx.x) % kGroupThreads) {}

  /// All tiles of this part.
  __device__ void part() {
    int step = 0;
    TileCursor tile(call_, range_);
    if (!tile.valid()) return;
    sync_scorer_and_weighers<kHeads>();  // queries are there
    for (; tile.valid(); tile.advance(), ++step) {
      // What follows from it is computed again for each tile: keeping it all takes more registers
      // than there are.
      thread_ = ptx::opaque(thread_);
      if (tile.first_of_unit()) begin_unit();
      const int buffer = step % kBuffers, round = step / kBuffers;
      ptx::wait(&shared_.tokens_full[buffer], round % 2);
      float scores[kSums];
      score(buffer, scores);
      // An empty row's tile names nothing.
      const bool named[2] = {shared_.named[buffer][first_row()],
                             shared_.named[buffer][first_row() + 8]};
      hand_over(&shared_.tokens_empty[buffer]);
      ptx::wait(&shared_.weights_empty[buffer], (round + 1) % 2);
      if (thread_ == 0) shared_.order[buffer] = order(tile);
      soften(buffer, scores, named);
      ptx::fence_shared_writes();
      hand_over(&shared_.weights_full[buffer]);
      if (tile.last_of_unit()) end_unit(tile);
    }
  }

 private:
  static constexpr int kPairs = kHeads / 8;  // of columns that a lane has in a product
  static constexpr int kSums = kHeads / 2;   // of a lane in a product
  static constexpr float kSlack = 8.0f;  // a weight may be 2^kSlack; beyond, the reference moves
  static constexpr float kLog2e = 1.44269504088896340736f, kLn2 = 0.693147180559945309417f;

  __device__ int warp() const { return thread_ / 32; }
  __device__ int lane() const { return thread_ % 32; }
  __device__ int first_row() const { return 16 * warp() + row_of(lane()); }
  __device__ float2 references(int j) const { return pair_at(shared_.reference, lane(), j); }
  /// Whether this thread keeps the state of head thread_.
  __device__ bool keeps_state() const { return thread_ < kHeads; }
  __device__ static void sync() { ptx::sync(NamedBarriers::kScorer, kGroupThreads); }

  /// All of this warp is done with what the barrier guards.
  __device__ void hand_over(uint64_t* barrier) const {
    __syncwarp();
    if (lane() == 0) ptx::arrive(barrier);
  }

  __device__ Order order(const TileCursor& tile) const {
    Order order = {};
    order.first_of_unit = tile.first_of_unit();
    order.last_of_unit = tile.last_of_unit();
    const bool split = tile.plan().first_slot != RowPlan::kWhole;
    order.joins = !split && tile.unit() > 0;
    order.finishes = !split && tile.unit() + 1 == tile.unit_count();
    order.last_of_row_here = tile.last_of_row_here();
    order.last_of_part = tile.last_of_part();
    order.partial = split ? tile.plan().first_slot + call_.limits.parts + tile.unit()
                          : static_cast<int>(blockIdx.x);
    return order;
  }

  __device__ void begin_unit() {
    reference_ = -INFINITY;  // below any score by far
    if (keeps_state()) shared_.reference[thread_] = reference_;
#pragma unroll
    for (float& sum : exact_sums_) sum = 0.0f;
    sync();
  }

  /// scores = tokens · q, in two sums of half the values each, because products cut off what is
  /// small beside the sum so far.
  __device__ void score(int buffer, float (&scores)[kSums]) {
    constexpr int kHalf = kBlocks / 2;
    float others[kSums];
    ptx::begin_products();
#pragma unroll
    for (int block = 0; block < kHalf; ++block) {
#pragma unroll
      for (int d = 0; d < kBlockDims; d += 16) {
        multiply_add(buffer, block, d, scores, block + d > 0);
        multiply_add(buffer, block + kHalf, d, others, block + d > 0);
      }
    }
    ptx::commit_products();
    ptx::wait_products<0>();
    ptx::pin(scores);
    ptx::pin(others);
#pragma unroll
    for (int i = 0; i < kSums; ++i) scores[i] += others[i];
  }

  __device__ void multiply_add(int buffer, int block, int d, float (&sums)[kSums], bool add) const {
    const uint32_t bytes = d * sizeof(uint16_t);
    const uint64_t tokens = ptx::describe_operand(&shared_.tokens[buffer][block]);
    const uint64_t q = ptx::describe_operand(&shared_.q[block]);
    ptx::multiply_add<kHeads, false>(sums, ptx::advance(tokens, bytes), ptx::advance(q, bytes),
                                     add);
  }

  /// Turns scores into weights 2^(score - reference), in shared memory. Scores are logarithms to
  /// base 2 from here on until the unit ends.
  __device__ void soften(int buffer, float (&scores)[kSums], const bool (&named)[2]) {
    scale(scores);
    const bool moves = ptx::sync_any(NamedBarriers::kScorer, kGroupThreads, exceeds(scores, named));
    if (moves) move_references(buffer, scores, named);
    if (thread_ == 0) shared_.moved[buffer] = moves;
    ptx::pin(scores);  // what exceeds() has made of them is not kept
    for_each_pairs<kPairs>(
        [&](int j, auto pairs) { make_weights<pairs>(scores, j, named, buffer); });
  }

  /// Makes scores logarithms to base 2.
  __device__ void scale(float (&scores)[kSums]) const {
    const float to_base_2 = call_.softmax_scale * kLog2e;
    if (fabsf(to_base_2) < INFINITY) {
#pragma unroll
      for (float& score : scores) score *= to_base_2;
    } else {
#pragma unroll
      for (float& score : scores) score = score * call_.softmax_scale * kLog2e;
    }
  }

  /// Zero for the largest score once it is the reference; -inf for what no slot names.
  __device__ static float distance(float score, float reference, bool named) {
    return named ? score - reference : -INFINITY;
  }

  /// Whether a score of this thread is too far above its reference.
  __device__ bool exceeds(const float (&scores)[kSums], const bool (&named)[2]) const {
    float most = -INFINITY;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const float2 reference = references(j);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        most = fmaxf(most, distance(scores[4 * j + 2 * i], reference.x, named[i]));
        most = fmaxf(most, distance(scores[4 * j + 2 * i + 1], reference.y, named[i]));
      }
    }
    return most > kSlack;
  }

  /// A head's reference becomes the largest score so far if that is far above, and its alone: its
  /// bits must not depend on the heads beside it.
  __device__ void move_references(int buffer, const float (&scores)[kSums],
                                  const bool (&named)[2]) {
    for_each_pairs<kPairs>([&](int j, auto pairs) {
      float most[2 * pairs];
#pragma unroll
      for (int i = 0; i < 2 * pairs; ++i) {
        const float upper = scores[4 * (j + i / 2) + i % 2];
        const float lower = scores[4 * (j + i / 2) + 2 + i % 2];
        most[i] = fmaxf(named[0] ? upper : -INFINITY, named[1] ? lower : -INFINITY);
      }
      join_rows<pairs>(
          lane(), most, [](float a, float b) { return fmaxf(a, b); },
          &shared_.of_warp[warp()][8 * j]);
    });
    sync();
    if (keeps_state()) move_reference(buffer);
    sync();
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const float2 factor = pair_at(shared_.old_weight[buffer], lane(), j);
      exact_sums_[2 * j] *= factor.x;
      exact_sums_[2 * j + 1] *= factor.y;
    }
  }

  /// Of one head, after all warps have their tile's maximum.
  __device__ void move_reference(int buffer) {
    float most = -INFINITY;
    for (int w = 0; w < kWarps; ++w) most = fmaxf(most, shared_.of_warp[w][thread_]);
    float old_weight = 1.0f;
    if (reference_ == -INFINITY) {
      old_weight = 0.0f;  // of nothing
      reference_ = most;
    } else if (most - reference_ > kSlack) {  // as exceeds() has it
      old_weight = ptx::exp2_approximate(reference_ - most);
      reference_ = most;
    }
    shared_.reference[thread_] = reference_;
    shared_.old_weight[buffer][thread_] = old_weight;
  }

  /// Writes the weights of `kCount` pairs of columns from `first` on, and adds them to the exact
  /// sums.
  template <int kCount>
  __device__ void make_weights(const float (&scores)[kSums], int first, const bool (&named)[2],
                               int buffer) {
    uint32_t weights[2 * kCount];
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const float2 reference = references(first + j);
      const auto weight = [&](int i, int e) {
        return ptx::exp2_approximate(distance(scores[4 * (first + j) + 2 * i + e],
                                              e == 0 ? reference.x : reference.y, named[i]));
      };
      float exact[2][2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        exact[i][0] = weight(i, 0);
        exact[i][1] = weight(i, 1);
        weights[2 * j + i] = bf16x2(exact[i][0], exact[i][1]);
      }
      exact_sums_[2 * (first + j)] += exact[0][0] + exact[1][0];
      exact_sums_[2 * (first + j) + 1] += exact[0][1] + exact[1][1];
    }
    store_transposed<kCount>(lane(), weights, [&](int head, int chunk) {
      return shared_.weights[buffer].at(8 * first + head, 2 * warp() + chunk);
    });
  }

  /// Leaves the sums of the weights, exact for each warp, and makes of them what the weighers need
  /// to leave the unit where it belongs.
  __device__ void end_unit(const TileCursor& tile) {
    for_each_pairs<kPairs>([&](int j, auto pairs) {
      float sums[2 * pairs];
#pragma unroll
      for (int i = 0; i < 2 * pairs; ++i) sums[i] = exact_sums_[2 * j + i];
      join_rows<pairs>(
          lane(), sums, [](float a, float b) { return a + b; }, &shared_.of_warp[warp()][8 * j]);
    });
    sync_scorer_and_weighers<kHeads>();  // the sums are there
    if (keeps_state()) settle(tile);
    sync_scorer_and_weighers<kHeads>();  // what follows from them is
    // What the unit left may be written again, and the next row's queries are there.
    sync_scorer_and_weighers<kHeads>();
  }

  /// Of head thread_: its state after the unit, in the row so far or among the slots.
  __device__ void settle(const TileCursor& tile) {
    const auto& of_warp = shared_.of_warp;
    const float sum =
        (of_warp[0][thread_] + of_warp[1][thread_]) + (of_warp[2][thread_] + of_warp[3][thread_]);
    const SoftmaxState unit = {reference_ * kLn2, sum};
    // The sums have been made with rounded weights, the state with exact ones; bringing them to
    // the exact sum leaves only what rounding changed between the tokens.
    const float rounded = shared_.rounded_sum[0][thread_] + shared_.rounded_sum[1][thread_];
    shared_.factor[thread_] = sum == 0.0f ? 1.0f : sum / rounded;
    if (tile.plan().first_slot != RowPlan::kWhole) {
      store(tile.plan().first_slot + call_.limits.parts + tile.unit(), unit);
      return;
    }
    if (tile.unit() == 0) {
      row_ = unit;
    } else {
      const Merged merged = merge(row_, unit);
      shared_.merged[thread_] = merged;
      row_ = merged.state;
    }
    if (!tile.last_of_row_here() || thread_ >= heads_here<kHeads>(call_)) return;
    const int head = first_head<kHeads>() + thread_;
    const Finished finished = finish_head(call_, row_, head);
    shared_.out_weight[thread_] = finished.out_weight;
    write_lse(call_, finished, tile.row(), head);
  }

  /// Writes the state of partial number `partial`.
  __device__ void store(int partial, const SoftmaxState& state) const {
    if (thread_ < heads_here<kHeads>(call_))
      partial_states(call_, partial)[first_head<kHeads>() + thread_] = state;
  }

  const LayerCall& call_;
  const PartRange range_;
  Shared<kHeads>& shared_;
  int thread_;  // of the group
  // Of the unit so far.
  float reference_;               // of head thread_, if this thread keeps its state
  float exact_sums_[2 * kPairs];  // of this thread's rows' weights, a column each
  SoftmaxState row_;              // of head thread_, before this unit
};

}  // namespace steady::cuda::sm90
