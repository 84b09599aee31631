// SPDX-License-Identifier: Apache-2.0
// Tiles of tokens in, the weights of half of the heads and what each unit comes to out to the
// weighers of both blocks, lse or the states of split rows out: the work of one warpgroup. Each
// block scores over its half of the values, and sends the other one its share of the scores of that
// one's heads. Heads are the rows of products, so that a head's scores lie in the four lanes of a
// quad.
#pragma once

#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/pair/shared.cuh"

namespace steady::cuda::sm90::pair {

template <class S>
class Scorer {
 public:
  __device__ Scorer(const Call& call, Shared<S>& shared)
      : call_(call),
        rank_(ptx::cluster_rank()),
        shared_(shared),
        heads_(heads_here(call)),
        tile_(call),
        head_weights_(call) {}

  /// All tiles of a part that has some.
  __device__ void part(const PartRange& range) {
    tile_.start(range);
    ptx::wait_for_earlier_grids();
    if (S::kQueryBuffers == 2) load_queries(tile_.row(), 0);
    for (; tile_.valid(); tile_.advance()) {
      if (tile_.first_of_row_here()) [[unlikely]]
        change_queries();
      head_weights_.begin_unit();
      score_unit();
      if (has_own_heads()) end_unit();
      ptx::arrive(&shared_.unit_end_full[unit_.index]);
      unit_.advance();
    }
  }

 private:
  /// Products cut off what is small beside the sum so far: quarters of a vector are summed apart.
  static constexpr int kQuarterBlocks = kBlocks / 4, kQuarters = S::kOwnBlocks / kQuarterBlocks;
  static_assert(kQuarters == 2);

  /// Of products, over a quarter of a vector.
  struct Sums {
    float at[kTokens / 2];
  };

  __device__ static int thread() { return static_cast<int>(threadIdx.x) % kGroupThreads; }
  __device__ static int warp() { return thread() / 32; }
  __device__ static void sync() { ptx::sync(NamedBarriers::kScorer, kGroupThreads); }

  /// Waits for the queries of the tile's row, and begins to load the next one's.
  __device__ void change_queries() {
    if (S::kQueryBuffers == 1) {
      sync();  // nobody needs the last row's
      load_queries(tile_.row(), 0);
    }
    queries_ = (queries_ + 1) % S::kQueryBuffers;
    ptx::wait_copies();
    ptx::fence_shared_writes();
    sync();  // all have theirs there, and nobody needs the last row's
    if (S::kQueryBuffers == 2 && tile_.goes_on()) load_queries(tile_.row() + 1, queries_ ^ 1);
  }

  /// Begins to load this block's share of a row's queries.
  __device__ void load_queries(int row, int buffer) {
    constexpr int kChunks = S::kOwnDims / kChunkDims, kStep = kGroupThreads / kChunks;
    const Layer& layer = call_.layer;
    const int chunk = thread() % kChunks, first = thread() / kChunks;
    const uint16_t* q = layer.q +
                        row_offset(layer.q_strides, call_.queries, row, first_head(call_) + first) +
                        rank_ * S::kOwnDims + chunk * kChunkDims;
    const bool aligned = reinterpret_cast<uintptr_t>(q) % sizeof(Chunk) == 0 &&
                         layer.q_strides.head % kChunkDims == 0;
    Block& block = shared_.q[buffer][chunk / kBlockChunks];
    const auto place = [&](int head) { return block.at(S::row_of(head), chunk % kBlockChunks); };
    if (!aligned) [[unlikely]] {
#pragma unroll 1
      for (int head = first; head < heads_; head += kStep, q += kStep * layer.q_strides.head)
        *place(head) = read_chunk(q);
      return;
    }
    // The first eight heads; the others' lines lie a whole number of eights further on.
    constexpr int kEight = 8 / kStep;
    Chunk* places[kEight];
#pragma unroll
    for (int i = 0; i < kEight; ++i) places[i] = place(first + kStep * i);
#pragma unroll
    for (int i = 0; i < S::kHeads / kStep; ++i, q += kStep * layer.q_strides.head) {
      const int head = first + kStep * i, lines = S::row_of(i / kEight * 8);
      if (head < heads_) ptx::copy_async_16(places[i % kEight] + lines * kBlockChunks, q);
    }
  }

  /// All tiles of a unit.
  __device__ void score_unit() {
    Sums sums[kQuarters];
    float scores[InQuad::kScores];
    Weights weights;
    if constexpr (!S::kOverlaps) {
#pragma unroll 1
      for (;; tile_.advance_in_unit()) {
        begin_products(sums);
        finish_products(sums);
        const uint64_t named = end_scores(sums, scores);
        try_weights(scores, &weights);
        leave_weights(named, scores, &weights);
        if (tile_.last_of_unit()) break;
      }
    } else {
      begin_products(sums);
      finish_products(sums);
      uint64_t named = end_scores(sums, scores);
#pragma unroll 1
      for (; !tile_.last_of_unit(); tile_.advance_in_unit()) {
        begin_products(sums);
        try_weights(scores, &weights);
        finish_products(sums);  // before what branches, where the compiler would wait for them, too
        leave_weights(named, scores, &weights);
        named = end_scores(sums, scores);
      }
      try_weights(scores, &weights);
      leave_weights(named, scores, &weights);
    }
  }

  /// Begins sums = q · tokens of the next tile, over each quarter of the values that this block
  /// shares.
  __device__ void begin_products(Sums (&sums)[kQuarters]) {
    tokens_.wait_full(shared_.tokens_full);
    for (auto& quarter : sums) ptx::pin(quarter.at);
    const auto q = ptx::uniform(ptx::describe_operand(shared_.q[queries_]));
    const auto tokens = ptx::uniform(ptx::describe_operand(shared_.tokens[tokens_.index]));
    ptx::begin_products();
#pragma unroll
    for (int d = 0; d < S::kOwnDims; d += 16) {
      constexpr int kQuarterDims = kQuarterBlocks * kBlockDims;
      const uint32_t bytes = d / kBlockDims * sizeof(Block) + d % kBlockDims * sizeof(uint16_t);
      ptx::multiply_add<kTokens>(sums[d / kQuarterDims].at, ptx::advance(q, bytes),
                                 ptx::advance(tokens, bytes), d % kQuarterDims > 0);
    }
    ptx::commit_products();
  }
  static __device__ void finish_products(Sums (&sums)[kQuarters]) {
    ptx::wait_products<0>();
    for (auto& quarter : sums) ptx::pin(quarter.at);
  }

  /// The place of this warp's scores among those of a block's warps that make weights.
  __device__ static int maker_warp() { return warp() % S::kMakerWarps; }
  /// Of this warp's rows the half whose weights are made here, and the other one.
  __device__ int own_half() const { return S::kHalves == 1 ? 0 : rank_; }
  __device__ bool is_own(int half) const { return S::maker(warp(), half) == rank_; }
  __device__ bool has_own_heads() const {
    return is_own(own_half()) && S::has_heads(warp(), own_half(), heads_);
  }
  __device__ int own_row() const { return 16 * warp() + 8 * own_half() + lane() / 4; }
  __device__ int own_head() const { return S::first_head(warp(), own_half()) + lane() / 4; }
  __device__ static int lane() { return thread() % 32; }
  template <class T>
  __device__ ptx::Remote in_other(T* shared) const {
    return ptx::in_block(shared, rank_ ^ 1);
  }

  /// Which of the tile's tokens a slot names, read by the lane that will hand the buffer over.
  __device__ uint64_t read_named() const {
    unsigned long long named = 0;
    if (lane() == 0) named = shared_.named[tokens_.index];
    return __shfl_sync(~0u, named, 0);
  }

  /// Sends the other block this one's share of the scores of its heads, and keeps that of the own
  /// heads.
  __device__ void deal(const Sums (&sums)[kQuarters], float (&own)[InQuad::kScores]) {
    const auto score = [&](int half, int k) {
      const int at = k / 2 * 4 + 2 * half + k % 2;
      return sums[0].at[at] + sums[1].at[at];
    };
    float others[InQuad::kScores];
#pragma unroll
    for (int k = 0; k < InQuad::kScores; ++k) {
      const float upper = score(0, k), lower = score(S::kHalves - 1, k);
      own[k] = rank_ == 0 ? upper : lower;
      others[k] = rank_ == 0 ? lower : upper;
    }
    const int half = S::kHalves - 1 - own_half();
    if (S::maker(warp(), half) == rank_ || !S::has_heads(warp(), half, heads_)) return;
    const ptx::Remote to = in_other(&shared_.scores[buffer_.index][maker_warp()][0][lane()]),
                      full = in_other(&shared_.scores_full[maker_warp()][buffer_.index]);
#pragma unroll
    for (int i = 0; i < InQuad::kScores / 4; ++i) {
      const float* four = &others[4 * i];
      ptx::store_async(ptx::advance(to, i * sizeof(shared_.scores[0][0][0])),
                       float4{four[0], four[1], four[2], four[3]}, full);
    }
  }

  /// A tile's scores are made: sends the other block its own and hands the tokens back. Returns
  /// which of them a slot names.
  __device__ uint64_t end_scores(const Sums (&sums)[kQuarters], float (&own)[InQuad::kScores]) {
    const uint64_t named = read_named();
    hand_over(&shared_.tokens_empty[tokens_.index]);
    tokens_.advance();
    buffer_.wait_empty(shared_.weights_empty);
    deal(sums, own);
    return named;
  }

  /// Of the own heads, 2^(score as a logarithm to base 2 - reference), rounded.
  struct Weights {
    uint32_t pairs[InQuad::kScores / 2];
    float sum;
  };

  /// Adds the other block's share to scores and makes the weights that most tiles have.
  __device__ void try_weights(float (&scores)[InQuad::kScores], Weights* weights) {
    add_others(scores);
    weights->sum = head_weights_.weigh(0, scores, weights->pairs);
  }

  /// Leaves the weights, made anew if they are not what most are, and what the sums so far are
  /// worth after references moved, for both blocks.
  __device__ void leave_weights(uint64_t named, float (&scores)[InQuad::kScores],
                                Weights* weights) {
    if (has_own_heads()) {
      const float old_weight = mend_weights(named, scores, weights);
      send_weights(weights->pairs, old_weight);
    }
    ptx::arrive(&shared_.weights_full[buffer_.index]);
    buffer_.advance();
  }

  /// Returns what the sums so far are worth.
  __device__ float mend_weights(uint64_t named, float (&scores)[InQuad::kScores],
                                Weights* weights) {
    float old_weight = 1.0f;
    head_weights_.see(named != 0);
    const bool other = head_weights_.any_scaled() || named != ~uint64_t{0};
    if (other || __any_sync(~0u, head_weights_.are_large(weights->sum))) [[unlikely]] {
      if (head_weights_.any_scaled()) head_weights_.scale(0, scores);
      if (named != ~uint64_t{0}) hide_unnamed(named, scores);
      for (;;) {
        weights->sum = head_weights_.weigh(0, scores, weights->pairs);
        if (!__any_sync(~0u, head_weights_.are_large(weights->sum))) break;
        head_weights_.move_reference(0, scores, weights->sum, &old_weight);
      }
    }
    head_weights_.add(0, weights->sum);
    return old_weight;
  }

  __device__ void send_weights(const uint32_t (&pairs)[InQuad::kScores / 2], float old_weight) {
    const ptx::Remote full = in_other(&shared_.weights_full[buffer_.index]);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      uint32_t words[4] = {pairs[4 * i], pairs[4 * i + 1], pairs[4 * i + 2], pairs[4 * i + 3]};
      transpose_in_quad(words);
      const Chunk chunk = {words[0], words[1], words[2], words[3]};
      Chunk* const to = shared_.weights[buffer_.index].at(own_row(), 4 * i + lane() % 4);
      *to = chunk;
      ptx::store_async(in_other(to), chunk, full);
    }
    if (lane() % 4 != 0) return;
    float* const to = &shared_.old_weights[buffer_.index][own_row()];
    *to = old_weight;
    ptx::store_async(in_other(to), old_weight, full);
  }

  /// Waits for the other block's share.
  __device__ void add_others(float (&scores)[InQuad::kScores]) {
    if (!has_own_heads()) return;
    const auto& others = shared_.scores[buffer_.index][maker_warp()];
    uint64_t* full = &shared_.scores_full[maker_warp()][buffer_.index];
    if (lane() == 0) ptx::arrive_and_expect(full, sizeof others);
    __syncwarp();
    ptx::wait(full, buffer_.parity);
#pragma unroll
    for (int i = 0; i < InQuad::kScores / 4; ++i) {
      float* const four = &scores[4 * i];
      const float4 sum = plus({four[0], four[1], four[2], four[3]}, others[i][lane()]);
      four[0] = sum.x;
      four[1] = sum.y;
      four[2] = sum.z;
      four[3] = sum.w;
    }
  }

  /// What no slot names has no weight.
  __device__ static void hide_unnamed(uint64_t named, float (&scores)[InQuad::kScores]) {
    const uint64_t own = named >> (2 * (lane() % 4));
#pragma unroll
    for (int k = 0; k < InQuad::kScores; ++k) {
      if ((own >> (8 * (k / 2) + k % 2) & 1) == 0) scores[k] = -INFINITY;
    }
  }

  /// Tells both weighers what becomes of the unit's sums, and the caller the lse of a row that is
  /// done, or merge the state of a split one.
  __device__ void end_unit() {
    const int head_of_all = first_head(call_) + own_head();
    const float sum = head_weights_.unit_sum(0);
    if (lane() % 4 != 0 || own_head() >= heads_) return;
    end_head(
        call_, tile_.place(), tile_.row(), head_of_all, sum, head_weights_.state(0, sum),
        [&] { return sink_of(call_, head_of_all); }, &shared_.row_so_far[own_head()], true,
        [&](const HeadEnd& end) {
          HeadEnd* const to = &shared_.unit_ends[unit_.index][own_row()];
          *to = end;
          ptx::store_async(in_other(to),
                           float4{end.sum, end.left_weight, end.right_weight, end.finish},
                           in_other(&shared_.unit_end_full[unit_.index]));
        });
  }

  const Call& call_;
  const int rank_;
  Shared<S>& shared_;
  const int heads_;
  TileCursor tile_;
  Ring<S::kTokenBuffers> tokens_;
  Ring<S::kBuffers> buffer_, unit_;
  HeadWeights<1, InQuad> head_weights_;
  int queries_ = S::kQueryBuffers - 1;  // which buffer is used
};

}  // namespace steady::cuda::sm90::pair
