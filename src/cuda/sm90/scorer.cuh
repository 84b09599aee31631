// SPDX-License-Identifier: Apache-2.0
// Tiles of tokens in, their weights out: the work of one warpgroup. It scores a tile over this
// block's share of the values, adds the other blocks' shares, turns scores into weights for the
// weigher, and keeps each head's state. All blocks of a cluster come to the same weights.
//
// Heads are the rows of products, so a row's scores lie in the four lanes of a quad. Weights are
// relative to a reference that moves only where a score exceeds it by far: most tiles leave the
// weigher's sums as they are.
#pragma once

#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/mma.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/shared.cuh"

namespace steady::cuda::sm90 {

template <class S>
class Scorer {
 public:
  __device__ Scorer(const LayerCall& call, const PartRange& range, int part, int rank,
                    Shared<S>& shared)
      : call_(call),
        part_(part),
        rank_(rank),
        shared_(shared),
        heads_(heads_here(call)),
        tile_(call, range) {}

  /// All tiles of this part. While a tile's products run, the one before becomes weights.
  __device__ void part() {
    float sums[kChains][kTokens / 2];
    begin_unit();
    bring_queries();
    begin_scores(sums);
    Tile last = end_scores(sums);
    for (tile_.advance(); tile_.valid(); tile_.advance()) {
      if (tile_.first_of_row_here()) bring_queries();
      begin_scores(sums);
      soften(last);
      last = end_scores(sums);
    }
    soften(last);
  }

 private:
  static constexpr int kHalves = S::kHalves, kScores = S::kScores;
  /// Products cut off what is small beside the sum so far: quarters of a vector are summed apart.
  static constexpr int kChains = 4 / S::kCluster;
  static constexpr float kSlack = 8.0f;  // a weight may be 2^kSlack; beyond, the reference moves
  static constexpr float kLog2e = 1.44269504088896340736f, kLn2 = 0.693147180559945309417f;

  /// What is known of a tile until it has become weights.
  struct Tile {
    float scores[kScores];  // this block's share of them: of token 8 j + 2 (lane % 4) + e for the
                            // head in half i at 2 (kHalves j + i) + e
    uint64_t named;         // a bit for each token
    // Of the unit that it ends, if it does.
    int row, partial;
    bool last_of_unit, joins, finishes, split;
  };

  __device__ static int thread() { return static_cast<int>(threadIdx.x) % kGroupThreads; }
  __device__ static int warp() { return thread() / 32; }
  __device__ static int lane() { return thread() % 32; }
  __device__ static int row(int half) { return 16 * warp() + 8 * half + lane() / 4; }
  __device__ static int head(int half) { return head_of<S>(warp(), half, lane()); }
  /// Whether this warp has any head.
  __device__ bool works() const { return head_of<S>(warp(), 0, 0) < heads_; }
  /// Whether this lane writes for its quad what is known of a head.
  __device__ static bool writes() { return lane() % 4 == 0; }
  __device__ static void sync() { ptx::sync(NamedBarriers::kScorer, kGroupThreads); }

  /// This block's share of the tile's row's.
  __device__ void bring_queries() {
    constexpr int kChunks = S::kOwnDims / kChunkDims;
    sync();  // nobody needs the last row's
    const Layer& layer = call_.layer;
    const int chunk = thread() % kChunks;
    const uint16_t* q = layer.q +
                        row_offset(layer.q_strides, call_.queries, tile_.row(), first_head(call_)) +
                        rank_ * S::kOwnDims + chunk * kChunkDims;
    const bool aligned = reinterpret_cast<uintptr_t>(q) % sizeof(Chunk) == 0 &&
                         layer.q_strides.head % kChunkDims == 0;
#pragma unroll 1
    for (int head = thread() / kChunks; head < heads_; head += kGroupThreads / kChunks) {
      Chunk* to = shared_.q[chunk / kBlockChunks].at(row_of_head<S>(head), chunk % kBlockChunks);
      const uint16_t* from = q + head * layer.q_strides.head;
      if (aligned) {
        ptx::copy_async_16(to, from);
      } else {
        *to = read_chunk(from);
      }
    }
    ptx::wait_copies();
    ptx::fence_shared_writes();
    sync();
  }

  /// Begins sums = q · tokens.
  __device__ void begin_scores(float (&sums)[kChains][kTokens / 2]) {
    tokens_.wait_full(shared_.tokens_full);
    ptx::begin_products();
#pragma unroll
    for (int block = 0; block < S::kOwnBlocks; ++block) {
      constexpr int kChainBlocks = S::kOwnBlocks / kChains;
      const auto q = ptx::describe_operand(&shared_.q[block]);
      const auto tokens = ptx::describe_operand(&shared_.tokens[tokens_.index()][block]);
#pragma unroll
      for (int d = 0; d < kBlockDims; d += 16) {
        const uint32_t bytes = d * sizeof(uint16_t);
        ptx::multiply_add<kTokens, false>(sums[block / kChainBlocks], ptx::advance(q, bytes),
                                          ptx::advance(tokens, bytes),
                                          block % kChainBlocks + d > 0);
      }
    }
    ptx::commit_products();
  }

  /// Waits for the sums and sends them to the other blocks.
  __device__ Tile end_scores(float (&sums)[kChains][kTokens / 2]) {
    ptx::wait_products<0>();
#pragma unroll
    for (auto& chain : sums) ptx::pin(chain);
    Tile tile;
#pragma unroll
    for (int k = 0; k < kScores; ++k) {
      const int j = k / 2 / kHalves, half = k / 2 % kHalves, at = 4 * j + 2 * half + k % 2;
      tile.scores[k] = kChains == 2 ? sums[0][at] + sums[kChains - 1][at] : ptx::copy(sums[0][at]);
    }
    tile.named = *reinterpret_cast<const uint64_t*>(shared_.named[tokens_.index()]);
    tile.row = tile_.row();
    tile.last_of_unit = tile_.last_of_unit();
    tile.joins = tile_.joins();
    tile.finishes = tile_.finishes();
    tile.split = !tile_.whole();
    tile.partial = tile_.partial(part_);
    hand_over(&shared_.tokens_empty[tokens_.index()]);
    if (works()) send(tile.scores);
    ++tokens_.step;
    return tile;
  }

  __device__ void send(const float (&scores)[kScores]) {
    const Ring<Shared<S>::kBuffers> sent = {tokens_.step};
    ptx::wait_for_cluster(&shared_.scores_empty[warp()][sent.index()], sent.parity() ^ 1);
#pragma unroll
    for (int other = 1; other < S::kCluster; ++other) {
      const auto to =
          ptx::in_block(&shared_.scores[sent.index()][other - 1][0][thread()], rank_ ^ other);
      const auto full = ptx::in_block(&shared_.scores_full[warp()][sent.index()], rank_ ^ other);
#pragma unroll
      for (int i = 0; i < kScores / 4; ++i) {
        ptx::store_async(
            ptx::advance(to, i * kGroupThreads * sizeof(float4)),
            {scores[4 * i], scores[4 * i + 1], scores[4 * i + 2], scores[4 * i + 3]}, full);
      }
    }
  }

  /// Adds the other blocks' shares, always the same two and then both sums.
  __device__ void receive(float (&scores)[kScores]) {
    const uint32_t buffer = weights_.index();
    uint64_t* full = &shared_.scores_full[warp()][buffer];
    if (lane() == 0)
      ptx::arrive_and_expect(full, (S::kCluster - 1) * kScores * 32 * sizeof(float));
    __syncwarp();
    ptx::wait_for_cluster(full, weights_.parity());
#pragma unroll
    for (int i = 0; i < kScores / 4; ++i) {
      float4 sum = shared_.scores[buffer][0][i][thread()];
      sum = {scores[4 * i] + sum.x, scores[4 * i + 1] + sum.y, scores[4 * i + 2] + sum.z,
             scores[4 * i + 3] + sum.w};
      if constexpr (S::kCluster == 4) {
        const float4 a = shared_.scores[buffer][1][i][thread()];
        const float4 b = shared_.scores[buffer][2][i][thread()];
        sum = {sum.x + (a.x + b.x), sum.y + (a.y + b.y), sum.z + (a.z + b.z), sum.w + (a.w + b.w)};
      }
      scores[4 * i] = sum.x;
      scores[4 * i + 1] = sum.y;
      scores[4 * i + 2] = sum.z;
      scores[4 * i + 3] = sum.w;
    }
    __syncwarp();
    if (lane() > 0 && lane() < S::kCluster)
      ptx::arrive(ptx::in_block(&shared_.scores_empty[warp()][buffer], rank_ ^ lane()));
  }

  /// Turns scores into weights 2^(score - reference), in shared memory. Scores are logarithms to
  /// base 2 from here on.
  __device__ void soften(Tile& tile) {
    if (works()) {
      receive(tile.scores);
      scale(tile.scores);
      if (tile.named != ~uint64_t{0}) hide_unnamed(tile);
    }
    weights_.wait_empty(shared_.weights_empty);
    if (works()) {
      move_references(tile);
      make_weights(tile);
      ptx::fence_shared_writes();
    }
    hand_over(&shared_.weights_full[weights_.index()]);
    ++weights_.step;
    if (tile.last_of_unit) end_unit(tile);
  }

  __device__ void begin_unit() {
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      reference_[half] = -INFINITY;  // below any score by far
      exact_sum_[half] = rounded_sum_[half] = 0.0f;
    }
  }

  /// Makes scores logarithms to base 2.
  __device__ void scale(float (&scores)[kScores]) const {
    const float to_base_2 = call_.softmax_scale * kLog2e;
    if (fabsf(to_base_2) < INFINITY) {
#pragma unroll
      for (float& score : scores) score *= to_base_2;
    } else {
#pragma unroll
      for (float& score : scores) score = score * call_.softmax_scale * kLog2e;
    }
  }

  /// What no slot names has no weight.
  __device__ static void hide_unnamed(Tile& tile) {
    const uint64_t own = tile.named >> (2 * (lane() % 4));
#pragma unroll
    for (int k = 0; k < kScores; ++k) {
      const int j = k / 2 / kHalves;
      if ((own >> (8 * j + k % 2) & 1) == 0) tile.scores[k] = -INFINITY;
    }
  }

  /// A head's reference becomes the largest score so far if that is far above, and its alone: its
  /// bits must not depend on the heads beside it.
  __device__ void move_references(const Tile& tile) {
    float old_weight[kHalves];
    bool moved = false;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      float most = -INFINITY;
#pragma unroll
      for (int k = 0; k < kScores; ++k) {
        if (k / 2 % kHalves == half) most = fmaxf(most, tile.scores[k]);
      }
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
      old_weight[half] = 1.0f;
      float& reference = reference_[half];
      if (!(most - reference > kSlack)) continue;
      if (reference != -INFINITY) {
        moved = true;
        old_weight[half] = ptx::exp2_approximate(reference - most);
        exact_sum_[half] *= old_weight[half];
        rounded_sum_[half] *= old_weight[half];
      }
      reference = most;
    }
    moved = __any_sync(~0u, moved);
    if (lane() == 0) shared_.moved[weights_.index()][warp()] = moved;
    if (!moved || !writes()) return;
#pragma unroll
    for (int half = 0; half < kHalves; ++half)
      shared_.old_weight[weights_.index()][row(half)] = old_weight[half];
  }

  /// Writes the weights and adds them up, as they are and as bf16 has them.
  __device__ void make_weights(const Tile& tile) {
    Block& weights = shared_.weights[weights_.index()];
    float base[kHalves];
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      // Not -inf - -inf, where nothing is named.
      base[half] = tile.named == 0 && reference_[half] == -INFINITY ? 0.0f : reference_[half];
    }
#pragma unroll
    for (int first = 0; first < kScores / 2; first += 4) {
      uint32_t pairs[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int pair = first + i, half = pair % kHalves;
        const float a = ptx::exp2_approximate(tile.scores[2 * pair] - base[half]);
        const float b = ptx::exp2_approximate(tile.scores[2 * pair + 1] - base[half]);
        pairs[i] = bf16x2(a, b);
        exact_sum_[half] += a + b;
        rounded_sum_[half] +=
            __uint_as_float(pairs[i] << 16) + __uint_as_float(pairs[i] & 0xffff0000u);
      }
      // Matrix m of the four is pair first + m: its half and tokens.
      const int matrix = lane() / 8, half = matrix % kHalves;
      const int chunk = first / kHalves + matrix / kHalves;
      ptx::store_matrices(weights.at(16 * warp() + 8 * half + lane() % 8, chunk), pairs);
    }
  }

  __device__ static float of_quad(float sum) {
    sum += __shfl_xor_sync(~0u, sum, 1);
    return sum + __shfl_xor_sync(~0u, sum, 2);
  }

  /// Leaves each head's state after the unit, in the row so far or among the slots, and what the
  /// weigher needs to do the same.
  __device__ void end_unit(const Tile& tile) {
    unit_.wait_empty(shared_.unit_empty);
    if (works()) {
#pragma unroll
      for (int half = 0; half < kHalves; ++half) settle(tile, half);
    }
    hand_over(&shared_.unit_full[unit_.index()]);
    ++unit_.step;
    begin_unit();
  }

  __device__ void settle(const Tile& tile, int half) {
    const float sum = of_quad(exact_sum_[half]), rounded = of_quad(rounded_sum_[half]);
    if (!writes() || head(half) >= heads_) return;
    const int head_here = first_head(call_) + head(half);
    const SoftmaxState unit = {reference_[half] * kLn2, sum};
    // The sums have been made with rounded weights, the state with exact ones; bringing them to
    // the exact sum leaves only what rounding changed between the tokens.
    shared_.factor[row(half)] = sum == 0.0f ? 1.0f : sum / rounded;
    if (tile.split) {
      if (rank_ == 0) partial_states(call_, tile.partial)[head_here] = unit;
      return;
    }
    if (tile.joins) {
      const Merged merged = merge(row_so_far_[half], unit);
      shared_.merged[row(half)] = merged;
      row_so_far_[half] = merged.state;
    } else {
      row_so_far_[half] = unit;
    }
    if (!tile.finishes) return;
    const Finished finished = finish_head(call_, row_so_far_[half], head_here);
    shared_.out_weight[row(half)] = finished.out_weight;
    if (rank_ == 0) write_lse(call_, finished, tile.row, head_here);
  }

  const LayerCall& call_;
  const int part_, rank_;
  Shared<S>& shared_;
  const int heads_;
  TileCursor tile_;
  Ring<S::kTokenBuffers> tokens_;
  Ring<Shared<S>::kBuffers> weights_;  // of the tile that becomes weights
  Ring<1> unit_;
  // Of the unit so far, for the head in each half; the sums are of this thread's tokens.
  float reference_[kHalves], exact_sum_[kHalves], rounded_sum_[kHalves];
  SoftmaxState row_so_far_[kHalves];  // before this unit
};

}  // namespace steady::cuda::sm90
