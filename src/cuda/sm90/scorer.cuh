// SPDX-License-Identifier: Apache-2.0
// Tiles of tokens in, their weights out: the work of one warpgroup. It scores a tile over this
// block's share of the values, adds the other blocks' shares, turns scores into weights for the
// weigher, and keeps each head's state. All blocks of a cluster come to the same weights.
//
// Heads are the rows of products, so a row's scores lie in the four lanes of a quad. Weights are
// relative to a reference that moves only where weights become large: most tiles need no maximum
// and leave the weigher's sums as they are.
#pragma once

#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/mma.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/shared.cuh"

namespace steady::cuda::sm90 {

template <class S>
class Scorer {
 public:
  __device__ Scorer(const LayerCall& call, const PartRange& range, int rank, Shared<S>& shared)
      : call_(call), rank_(rank), shared_(shared), heads_(heads_here(call)), tile_(call, range) {}

  /// All tiles of this part. While a tile's first products run, the one before becomes weights.
  __device__ void part() {
    float sums[kTokens / 2];
    Tile last;
    begin_unit();
    load_queries(tile_.row());
    for (bool first = true;; first = false) {
      const bool more = tile_.valid();
      if (more) [[likely]] {
        if (tile_.first_of_row_here()) [[unlikely]]
          change_queries();
        tokens_.wait_full(shared_.tokens_full);
      }
      // After the last tile for nothing: the compiler lets products run on only where no branch
      // stands around them, and a second copy of the loop's body does not fit its cache.
      multiply(0, sums);
      if (!first) soften(last);
      if (!more) break;
      last = end_scores(sums);
      tile_.advance();
    }
    ptx::wait_products<0>();
    ptx::pin(sums);
  }

 private:
  static constexpr int kHalves = S::kHalves, kScores = S::kScores;
  /// Products cut off what is small beside the sum so far: quarters of a vector are summed apart.
  static constexpr int kQuarterBlocks = kBlocks / 4, kQuarters = S::kOwnBlocks / kQuarterBlocks;
  /// A thread's weights of a tile may add up to this; beyond, the reference moves.
  static constexpr float kLarge = 256.0f;
  /// Below any logarithm to base 2 of a score.
  static constexpr float kLowest = -3e38f;
  /// From here on a float's steps are too wide to leave rounding to the exponent.
  static constexpr float kFar = 16777216.0f;
  static constexpr float kLog2e = 1.44269504088896340736f, kLn2 = 0.693147180559945309417f;

  /// What is known of a tile until it has become weights.
  struct Tile {
    float scores[kScores];  // this block's share of them: of token 8 j + 2 (lane % 4) + e for the
                            // head in half i at 2 (kHalves j + i) + e
    uint64_t named;         // a bit for each token
    int row, unit;
    bool last_of_unit;
  };

  __device__ static int thread() { return static_cast<int>(threadIdx.x) % kGroupThreads; }
  __device__ static int warp() { return thread() / 32; }
  __device__ static int lane() { return thread() % 32; }
  __device__ static constexpr int half_of(int k) { return k / 2 % kHalves; }
  __device__ static int row(int half) { return 16 * warp() + 8 * half + lane() / 4; }
  __device__ static int head(int half) { return head_of<S>(warp(), half, lane()); }
  /// Whether this warp has any head.
  __device__ bool works() const { return head_of<S>(warp(), 0, 0) < heads_; }
  /// Whether this lane writes for its quad what is known of a head.
  __device__ static bool writes() { return lane() % 4 == 0; }
  __device__ static void sync() { ptx::sync(NamedBarriers::kScorer, kGroupThreads); }

  /// Waits for the queries of the tile's row, and begins to load the next one's.
  __device__ void change_queries() {
    queries_ ^= 1;
    ptx::wait_copies();
    ptx::fence_shared_writes();
    sync();  // all have theirs there, and nobody needs the last row's
    if (tile_.goes_on()) load_queries(tile_.row() + 1);
  }

  /// Begins to load this block's share of a row's queries, beside those that are used now.
  __device__ void load_queries(int row) {
    constexpr int kChunks = S::kOwnDims / kChunkDims, kStep = kGroupThreads / kChunks;
    const Layer& layer = call_.layer;
    const int chunk = thread() % kChunks;
    const uint16_t* q = layer.q +
                        row_offset(layer.q_strides, call_.queries, row, first_head(call_)) +
                        rank_ * S::kOwnDims + chunk * kChunkDims;
    const bool aligned = reinterpret_cast<uintptr_t>(q) % sizeof(Chunk) == 0 &&
                         layer.q_strides.head % kChunkDims == 0;
    Block& block = shared_.q[queries_ ^ 1][chunk / kBlockChunks];
    const auto place = [&](int head) {
      return block.at(row_of_head<S>(head), chunk % kBlockChunks);
    };
    const int first = thread() / kChunks;
    if (aligned) [[likely]] {
#pragma unroll 4
      for (int head = first; head < heads_; head += kStep)
        ptx::copy_async_16(place(head), q + head * layer.q_strides.head);
    } else {
#pragma unroll 1
      for (int head = first; head < heads_; head += kStep)
        *place(head) = read_chunk(q + head * layer.q_strides.head);
    }
  }

  /// Begins sums = q · tokens over a quarter of the values.
  __device__ void multiply(int quarter, float (&sums)[kTokens / 2]) {
    const auto q =
        ptx::uniform(ptx::describe_operand(&shared_.q[queries_][quarter * kQuarterBlocks]));
    const auto tokens = ptx::uniform(
        ptx::describe_operand(&shared_.tokens[tokens_.index][quarter * kQuarterBlocks]));
    ptx::begin_products();
#pragma unroll
    for (int d = 0; d < kQuarterBlocks * kBlockDims; d += 16) {
      const uint32_t bytes = d / kBlockDims * sizeof(Block) + d % kBlockDims * sizeof(uint16_t);
      ptx::multiply_add<kTokens, false>(sums, ptx::advance(q, bytes), ptx::advance(tokens, bytes),
                                        d > 0);
    }
    ptx::commit_products();
  }

  /// Waits for the sums over the first quarter of this block's share, adds the second if there is
  /// one, and sends what comes out to the other blocks.
  __device__ Tile end_scores(float (&sums)[kTokens / 2]) {
    float others[kTokens / 2];
    if constexpr (kQuarters == 2) multiply(1, others);
    ptx::wait_products<0>();
    ptx::pin(sums);
    if constexpr (kQuarters == 2) ptx::pin(others);
    Tile tile;
#pragma unroll
    for (int k = 0; k < kScores; ++k) {
      const int j = k / 2 / kHalves, at = 4 * j + 2 * half_of(k) + k % 2;
      tile.scores[k] = kQuarters == 2 ? sums[at] + others[at] : ptx::copy(sums[at]);
    }
    tile.named = shared_.named[tokens_.index];
    tile.last_of_unit = tile_.last_of_unit();
    tile.row = tile_.row();
    tile.unit = tile_.unit();
    hand_over(&shared_.tokens_empty[tokens_.index]);
    tokens_.advance();
    if (works()) send(tile.scores);
    return tile;
  }

  __device__ void send(const float (&scores)[kScores]) {
    sent_.wait_empty(shared_.scores_empty[warp()]);
#pragma unroll
    for (int other = 1; other < S::kCluster; ++other) {
      const auto to =
          ptx::in_block(&shared_.scores[sent_.index][other - 1][0][thread()], rank_ ^ other);
      const auto full = ptx::in_block(&shared_.scores_full[warp()][sent_.index], rank_ ^ other);
#pragma unroll
      for (int i = 0; i < kScores / 4; ++i) {
        ptx::store_async(ptx::advance(to, i * kGroupThreads * sizeof(float4)),
                         {scores[4 * i], scores[4 * i + 1], scores[4 * i + 2], scores[4 * i + 3]},
                         full);
      }
    }
    sent_.advance();
  }

  /// Adds the other blocks' shares, always the same two and then both sums.
  __device__ void receive(float (&scores)[kScores]) {
    const uint32_t buffer = weights_.index;
    uint64_t* full = &shared_.scores_full[warp()][buffer];
    if (lane() == 0) ptx::arrive_and_expect(full, (S::kCluster - 1) * kScores * 32 * sizeof(float));
    __syncwarp();
    ptx::wait(full, weights_.parity);
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

  /// Turns scores into weights 2^(score as a logarithm to base 2 - reference), in shared memory.
  __device__ void soften(Tile& tile) {
    uint32_t weights[kScores / 2];
    bool moved = false;
    if (works()) {
      receive(tile.scores);
      seen_ |= tile.named;
      if (any_scaled_) [[unlikely]]
        scale(tile.scores, scaled_);
      if (tile.named != ~uint64_t{0}) [[unlikely]]
        hide_unnamed(tile);
      float sums[kHalves], old_weight[kHalves];
#pragma unroll
      for (float& weight : old_weight) weight = 1.0f;
      for (;;) {
        make_weights(tile.scores, weights, sums);
        if (!__any_sync(~0u, any_large(sums))) [[likely]]
          break;
        move_references(tile.scores, sums, old_weight, &moved);
      }
      weights_.wait_empty(shared_.weights_empty);
      if (moved && writes()) {
#pragma unroll
        for (int half = 0; half < kHalves; ++half)
          shared_.old_weight[weights_.index][row(half)] = old_weight[half];
      }
#pragma unroll
      for (int half = 0; half < kHalves; ++half) sum_[half] += sums[half];
      store_weights(weights);
      ptx::fence_shared_writes();
    } else {
      weights_.wait_empty(shared_.weights_empty);
    }
    if (lane() == 0) shared_.moved[weights_.index][warp()] = moved;
    hand_over(&shared_.weights_full[weights_.index]);
    weights_.advance();
    if (tile.last_of_unit) [[unlikely]]
      end_unit(tile);
  }

  __device__ void begin_unit() {
    // A product with a scale that is not a positive number does not keep the order of scores.
    const float to_base_2 = call_.softmax_scale * kLog2e;
    any_scaled_ = !(to_base_2 > 0.0f && to_base_2 < INFINITY);
    seen_ = 0;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      scaled_[half] = any_scaled_;
      reference_[half] = kLowest;
      sum_[half] = 0.0f;
    }
  }

  /// Makes scores logarithms to base 2 where `which` says so.
  __device__ void scale(float (&scores)[kScores], const bool (&which)[kHalves]) const {
    const float to_base_2 = call_.softmax_scale * kLog2e;
    const bool at_once = fabsf(to_base_2) < INFINITY;
#pragma unroll
    for (int k = 0; k < kScores; ++k) {
      if (!which[half_of(k)]) continue;
      scores[k] = at_once ? scores[k] * to_base_2 : scores[k] * call_.softmax_scale * kLog2e;
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

  /// Weights, rounded, in pairs, and what a thread's add up to as they are.
  __device__ void make_weights(const float (&scores)[kScores], uint32_t (&weights)[kScores / 2],
                               float (&sums)[kHalves]) const {
    float factor[kHalves];
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      factor[half] = scaled_[half] ? 1.0f : call_.softmax_scale * kLog2e;
      sums[half] = 0.0f;
    }
#pragma unroll
    for (int pair = 0; pair < kScores / 2; ++pair) {
      const int half = pair % kHalves;
      const auto weight = [&](int k) {
        return ptx::exp2_approximate(__fmaf_rn(scores[k], factor[half], -reference_[half]));
      };
      const float a = weight(2 * pair), b = weight(2 * pair + 1);
      weights[pair] = bf16x2(a, b);
      sums[half] += a + b;
    }
  }

  __device__ static bool any_large(const float (&sums)[kHalves]) {
    bool any = false;
#pragma unroll
    for (const float sum : sums) any = any || sum > kLarge;
    return any;
  }

  /// The reference of a head whose weights are large becomes the tile's largest score, and its
  /// alone: its bits must not depend on the heads beside it.
  __device__ void move_references(float (&scores)[kScores], const float (&sums)[kHalves],
                                  float (&old_weight)[kHalves], bool* moved) {
    bool scales[kHalves];
    float most[kHalves];
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      most[half] = -INFINITY;
#pragma unroll
      for (int k = 0; k < kScores; ++k) {
        if (half_of(k) == half) most[half] = fmaxf(most[half], scores[k]);
      }
      most[half] = fmaxf(most[half], __shfl_xor_sync(~0u, most[half], 1));
      most[half] = fmaxf(most[half], __shfl_xor_sync(~0u, most[half], 2));
      if (!scaled_[half]) most[half] *= call_.softmax_scale * kLog2e;
      const uint32_t large = __ballot_sync(~0u, sums[half] > kLarge);
      const bool moves = (large >> (lane() & ~3) & 0xf) != 0;
      scales[half] = moves && !scaled_[half] && !(fabsf(most[half]) < kFar);
      if (!moves) continue;
      if (reference_[half] != kLowest) {
        *moved = true;
        const float factor = ptx::exp2_approximate(reference_[half] - most[half]);
        old_weight[half] *= factor;
        sum_[half] *= factor;
      }
      reference_[half] = most[half];
    }
    *moved = __any_sync(~0u, *moved);
    scale(scores, scales);
    bool any = any_scaled_;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      scaled_[half] = scaled_[half] || scales[half];
      any = any || scaled_[half];
    }
    any_scaled_ = __any_sync(~0u, any);
  }

  __device__ void store_weights(const uint32_t (&weights)[kScores / 2]) {
    Block& block = shared_.weights[weights_.index];
#pragma unroll
    for (int first = 0; first < kScores / 2; first += 4) {
      const uint32_t pairs[] = {weights[first], weights[first + 1], weights[first + 2],
                                weights[first + 3]};
      // Matrix m of the four is pair first + m: its half and tokens.
      const int matrix = lane() / 8, half = matrix % kHalves;
      const int chunk = first / kHalves + matrix / kHalves;
      ptx::store_matrices(block.at(16 * warp() + 8 * half + lane() % 8, chunk), pairs);
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
      const UnitPlace place = place_of<S>(call_, tile.row, tile.unit);
      float sum[kHalves];
#pragma unroll
      for (int half = 0; half < kHalves; ++half) sum[half] = of_quad(sum_[half]);
      // A lane of each quad for each half.
      const int half = lane() % 4;
      if (half < kHalves && head(half) < heads_)
        settle(tile.row, place, head(half), row(half), half == 0 ? sum[0] : sum[kHalves - 1],
               half == 0 ? reference_[0] : reference_[kHalves - 1]);
    }
    hand_over(&shared_.unit_full[unit_.index]);
    unit_.advance();
    begin_unit();
  }

  __device__ void settle(int row, const UnitPlace& place, int head_of_block, int product_row,
                         float sum, float reference) {
    // Of tokens whose scores are all beyond what a float can tell, nothing is known.
    if (sum == 0.0f && seen_ != 0) sum = NAN;
    const int head = first_head(call_) + head_of_block;
    const SoftmaxState unit = sum == 0.0f ? SoftmaxState{} : SoftmaxState{reference * kLn2, sum};
    shared_.sum[product_row] = sum;
    if (place.split) {
      if (rank_ == 0) partial_states(call_, place.partial)[head] = unit;
      return;
    }
    if (place.joins) {
      const Merged merged = merge(row_so_far_, unit);
      shared_.merged[product_row] = merged;
      row_so_far_ = merged.state;
    } else {
      row_so_far_ = unit;
    }
    if (!place.finishes) return;
    const Finished finished = finish_head(call_, row_so_far_, head);
    shared_.out_weight[product_row] = finished.out_weight;
    if (rank_ == 0) write_lse(call_, finished, row, head);
  }

  const LayerCall& call_;
  const int rank_;
  Shared<S>& shared_;
  const int heads_;
  TileCursor tile_;
  Ring<S::kTokenBuffers> tokens_;
  Ring<Shared<S>::kBuffers> sent_;     // of the tile that is scored
  Ring<Shared<S>::kBuffers> weights_;  // of the one that becomes weights
  Ring<1> unit_;
  int queries_ = 1;  // which of both buffers is used
  // Of the unit so far: tokens that were named; for the head in each half its reference, what this
  // thread's weights add up to, and whether its scores are scaled before they meet the reference.
  uint64_t seen_;
  float reference_[kHalves], sum_[kHalves];
  bool scaled_[kHalves], any_scaled_;  // any of the warp's
  SoftmaxState row_so_far_;            // before this unit, of the head that this lane settles
};

}  // namespace steady::cuda::sm90
