// SPDX-License-Identifier: Apache-2.0
// Tiles of tokens in, their weights out: the work of one warpgroup. It scores a tile over this
// block's share of the values and sends the scores of each octet of heads to the block that owns
// it. Of its own octets it adds up all blocks' shares, turns scores into weights, keeps each head's
// state, and sends the weights to all blocks' weighers.
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
  /// Products cut off what is small beside the sum so far: quarters of a vector are summed apart.
  static constexpr int kQuarterBlocks = kBlocks / 4, kQuarters = S::kOwnBlocks / kQuarterBlocks;
  /// A thread's weights of a tile may add up to this; beyond, the reference moves.
  static constexpr float kLarge = 256.0f;
  /// Below any logarithm to base 2 of a score.
  static constexpr float kLowest = -3e38f;
  /// From here on a float's steps are too wide to leave rounding to the exponent.
  static constexpr float kFar = 16777216.0f;
  static constexpr float kLog2e = 1.44269504088896340736f, kLn2 = 0.693147180559945309417f;

  /// Weights of an octet: eight lines of a block.
  static constexpr int kOctetBytes = 8 * sizeof(Block::lines[0]);

  /// What is known of a tile until it has become weights.
  struct Tile {
    // This block's share of the own octet's scores: of token 8 j + 2 (lane % 4) + e at 2 j + e.
    float scores[kLaneScores];
    uint64_t named;  // a bit for each token
    int row, unit;
    bool last_of_unit;
  };

  __device__ static int thread() { return static_cast<int>(threadIdx.x) % kGroupThreads; }
  __device__ static int warp() { return thread() / 32; }
  __device__ static int lane() { return thread() % 32; }
  /// Whether this lane writes for its quad what is known of a head.
  __device__ static bool writes() { return lane() % 4 == 0; }

  __device__ bool there(int octet) const { return 8 * octet < heads_; }
  /// The octet that this warp may own, and its lines in this block.
  __device__ int own_octet() const { return S::octet_of(warp(), 0, rank_); }
  __device__ static int own_line() { return 16 * warp(); }
  __device__ bool owns() const { return S::owner_of(own_octet()) == rank_ && there(own_octet()); }
  /// The octet among this warp's rows that another block may own.
  __device__ int other_octet() const { return S::octet_of(warp(), S::kHalves - 1, rank_); }
  __device__ bool has_other() const {
    return S::owner_of(other_octet()) != rank_ && there(other_octet());
  }
  __device__ int head() const { return 8 * own_octet() + lane() / 4; }  // of the group
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
      return block.at(S::row_of(head, rank_), chunk % kBlockChunks);
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
    float shares[kLaneScores];  // of the other octet
#pragma unroll
    for (int k = 0; k < kLaneScores; ++k) {
      const auto of_half = [&](int half) {
        const int at = 4 * (k / 2) + 2 * half + k % 2;
        return kQuarters == 2 ? sums[at] + others[at] : ptx::copy(sums[at]);
      };
      tile.scores[k] = of_half(0);
      shares[k] = S::kHalves == 1 ? tile.scores[k] : of_half(S::kHalves - 1);
    }
    tile.named = shared_.named[tokens_.index];
    tile.last_of_unit = tile_.last_of_unit();
    tile.row = tile_.row();
    tile.unit = tile_.unit();
    hand_over(&shared_.tokens_empty[tokens_.index]);
    tokens_.advance();
    if (has_other()) send(shares);
    sent_.advance();
    return tile;
  }

  __device__ void send(const float (&shares)[kLaneScores]) {
    const int owner = S::owner_of(other_octet());
    sent_.wait_empty(shared_.scores_empty[warp()]);
    auto* own = shared_.scores[sent_.index][(rank_ ^ owner) - 1];
    const auto to = ptx::in_block(&own[0][S::number_of(other_octet())][lane()], owner);
    const auto full = ptx::in_block(&shared_.scores_full[warp()][sent_.index], owner);
#pragma unroll
    for (int i = 0; i < kLaneScores / 4; ++i) {
      ptx::store_async(ptx::advance(to, i * sizeof(own[0])),
                       {shares[4 * i], shares[4 * i + 1], shares[4 * i + 2], shares[4 * i + 3]},
                       full);
    }
  }

  /// Adds the other blocks' shares, always the same two and then both sums.
  __device__ void receive(float (&scores)[kLaneScores]) {
    const uint32_t buffer = weights_.index;
    const int number = S::number_of(own_octet());
    uint64_t* full = &shared_.scores_full[warp()][buffer];
    if (lane() == 0)
      ptx::arrive_and_expect(full, (S::kCluster - 1) * kLaneScores * 32 * sizeof(float));
    __syncwarp();
    ptx::wait(full, weights_.parity);
#pragma unroll
    for (int i = 0; i < kLaneScores / 4; ++i) {
      float4 sum = shared_.scores[buffer][0][i][number][lane()];
      sum = {scores[4 * i] + sum.x, scores[4 * i + 1] + sum.y, scores[4 * i + 2] + sum.z,
             scores[4 * i + 3] + sum.w};
      if constexpr (S::kCluster == 4) {
        const float4 a = shared_.scores[buffer][1][i][number][lane()];
        const float4 b = shared_.scores[buffer][2][i][number][lane()];
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

  /// Turns scores into weights 2^(score as a logarithm to base 2 - reference), for all weighers.
  __device__ void soften(Tile& tile) {
    uint64_t* full = &shared_.weights_full[weights_.index];
    if (owns()) {
      uint32_t weights[kLaneScores / 2];
      receive(tile.scores);
      seen_ |= tile.named;
      if (any_scaled_) [[unlikely]]
        scale(tile.scores, scaled_);
      if (tile.named != ~uint64_t{0}) [[unlikely]]
        hide_unnamed(tile);
      float sum, old_weight = 1.0f;
      for (;;) {
        sum = make_weights(tile.scores, weights);
        if (!__any_sync(~0u, sum > kLarge)) [[likely]]
          break;
        move_reference(tile.scores, sum, &old_weight);
      }
      sum_ += sum;
      weights_.wait_empty(shared_.weights_empty);
      float* old_weights = shared_.old_weight[weights_.index];
      if (writes()) old_weights[own_line() + lane() / 4] = old_weight;
      store_weights(weights);
      Block& block = shared_.weights[weights_.index];
      pass_on([&](int line, int block_rank) {
        const auto there = ptx::in_block(full, block_rank);
        ptx::copy_async<kOctetBytes>(ptx::in_block(block.lines[line], block_rank),
                                     block.lines[own_line()], there);
        ptx::copy_async<8 * sizeof(float)>(ptx::in_block(&old_weights[line], block_rank),
                                           &old_weights[own_line()], there);
      });
    } else {
      weights_.wait_empty(shared_.weights_empty);
    }
    arrive(full, kOctetBytes + 8 * sizeof(float));
    weights_.advance();
    if (tile.last_of_unit) [[unlikely]]
      end_unit(tile);
  }

  /// What this warp has written becomes the other blocks', by copy(first line there, block).
  template <class Copy>
  __device__ void pass_on(const Copy& copy) const {
    ptx::fence_shared_writes();
    __syncwarp();
    if (lane() == 0 || lane() >= S::kCluster) return;
    const int block_rank = rank_ ^ lane();
    copy(S::row_of(8 * own_octet(), block_rank), block_rank);
  }

  /// This warp's arrival: the own octet is there, and so many bytes of the other one will be.
  __device__ void arrive(uint64_t* full, int bytes) const {
    __syncwarp();
    if (lane() != 0) return;
    if (has_other()) {
      ptx::arrive_and_expect(full, bytes);
    } else {
      ptx::arrive(full);
    }
  }

  __device__ void begin_unit() {
    // A product with a scale that is not a positive number does not keep the order of scores.
    const float to_base_2 = call_.softmax_scale * kLog2e;
    scaled_ = any_scaled_ = !(to_base_2 > 0.0f && to_base_2 < INFINITY);
    seen_ = 0;
    reference_ = kLowest;
    sum_ = 0.0f;
  }

  /// Makes scores logarithms to base 2, in lanes that say so.
  __device__ void scale(float (&scores)[kLaneScores], bool wanted) const {
    if (!wanted) return;
    const float to_base_2 = call_.softmax_scale * kLog2e;
    const bool at_once = fabsf(to_base_2) < INFINITY;
#pragma unroll
    for (float& score : scores)
      score = at_once ? score * to_base_2 : score * call_.softmax_scale * kLog2e;
  }

  /// What no slot names has no weight.
  __device__ static void hide_unnamed(Tile& tile) {
    const uint64_t own = tile.named >> (2 * (lane() % 4));
#pragma unroll
    for (int k = 0; k < kLaneScores; ++k) {
      if ((own >> (8 * (k / 2) + k % 2) & 1) == 0) tile.scores[k] = -INFINITY;
    }
  }

  /// Weights, rounded, in pairs; returns what they add up to as they are.
  __device__ float make_weights(const float (&scores)[kLaneScores],
                                uint32_t (&weights)[kLaneScores / 2]) const {
    const float factor = scaled_ ? 1.0f : call_.softmax_scale * kLog2e;
    const auto weight = [&](int k) {
      return ptx::exp2_approximate(__fmaf_rn(scores[k], factor, -reference_));
    };
    float sum = 0.0f;
#pragma unroll
    for (int pair = 0; pair < kLaneScores / 2; ++pair) {
      const float a = weight(2 * pair), b = weight(2 * pair + 1);
      weights[pair] = bf16x2(a, b);
      sum += a + b;
    }
    return sum;
  }

  /// The reference of a head whose weights are large becomes the tile's largest score, and its
  /// alone: its bits must not depend on the heads beside it.
  __device__ void move_reference(float (&scores)[kLaneScores], float sum, float* old_weight) {
    float most = -INFINITY;
#pragma unroll
    for (const float score : scores) most = fmaxf(most, score);
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
    if (!scaled_) most *= call_.softmax_scale * kLog2e;
    const uint32_t large = __ballot_sync(~0u, sum > kLarge);
    const bool moves = (large >> (lane() & ~3) & 0xf) != 0;
    const bool scales = moves && !scaled_ && !(fabsf(most) < kFar);
    if (moves) {
      if (reference_ != kLowest) {
        const float factor = ptx::exp2_approximate(reference_ - most);
        *old_weight *= factor;
        sum_ *= factor;
      }
      reference_ = most;
    }
    scale(scores, scales);
    scaled_ = scaled_ || scales;
    any_scaled_ = __any_sync(~0u, scaled_);
  }

  __device__ void store_weights(const uint32_t (&weights)[kLaneScores / 2]) {
    Block& block = shared_.weights[weights_.index];
#pragma unroll
    for (int first = 0; first < kLaneScores / 2; first += 4) {
      const uint32_t pairs[] = {weights[first], weights[first + 1], weights[first + 2],
                                weights[first + 3]};
      // Matrix m of the four is pair first + m: eight tokens.
      ptx::store_matrices(block.at(own_line() + lane() % 8, first + lane() / 8), pairs);
    }
  }

  __device__ static float of_quad(float sum) {
    sum += __shfl_xor_sync(~0u, sum, 1);
    return sum + __shfl_xor_sync(~0u, sum, 2);
  }

  /// Leaves each head's state after the unit, in the row so far or among the slots, and what the
  /// weighers need to do the same.
  __device__ void end_unit(const Tile& tile) {
    uint64_t* full = &shared_.unit_full[unit_.index];
    unit_.wait_empty(shared_.unit_empty);
    if (owns()) {
      const float sum = of_quad(sum_);
      if (writes() && head() < heads_)
        shared_.results[own_line() + lane() / 4] =
            settle(tile.row, place_of<S>(call_, tile.row, tile.unit), sum);
      pass_on([&](int line, int block_rank) {
        ptx::copy_async<8 * sizeof(UnitResult)>(ptx::in_block(&shared_.results[line], block_rank),
                                                &shared_.results[own_line()],
                                                ptx::in_block(full, block_rank));
      });
    }
    arrive(full, 8 * sizeof(UnitResult));
    unit_.advance();
    begin_unit();
  }

  __device__ UnitResult settle(int row, const UnitPlace& place, float sum) {
    // Of tokens whose scores are all beyond what a float can tell, nothing is known.
    if (sum == 0.0f && seen_ != 0) sum = NAN;
    const int head_of_all = first_head(call_) + head();
    const SoftmaxState unit = sum == 0.0f ? SoftmaxState{} : SoftmaxState{reference_ * kLn2, sum};
    UnitResult result = {sum, 0.0f, 0.0f, 1.0f};
    if (place.split) {
      partial_states(call_, place.partial)[head_of_all] = unit;
      return result;
    }
    if (place.joins) {
      const Merged merged = merge(row_so_far_, unit);
      result.left_weight = merged.left_weight;
      result.right_weight = merged.right_weight;
      row_so_far_ = merged.state;
    } else {
      row_so_far_ = unit;
    }
    if (!place.finishes) return result;
    const Finished finished = finish_head(call_, row_so_far_, head_of_all);
    result.out_weight = finished.out_weight;
    write_lse(call_, finished, row, head_of_all);
    return result;
  }

  const LayerCall& call_;
  const int rank_;
  Shared<S>& shared_;
  const int heads_;
  TileCursor tile_;
  Ring<S::kTokenBuffers> tokens_;
  Ring<S::kBuffers> sent_;     // of the tile that is scored
  Ring<S::kBuffers> weights_;  // of the one that becomes weights
  Ring<1> unit_;
  int queries_ = 1;  // which of both buffers is used
  // Of the unit so far: tokens that were named; for this lane's head of the own octet its
  // reference, what this thread's weights add up to, and whether its scores are scaled before they
  // meet the reference.
  uint64_t seen_;
  float reference_, sum_;
  bool scaled_, any_scaled_;  // any of the warp's
  SoftmaxState row_so_far_;   // before this unit
};

}  // namespace steady::cuda::sm90
