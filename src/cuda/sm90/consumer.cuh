// SPDX-License-Identifier: Apache-2.0
// Tiles of tokens in, answers of whole rows and partials of split rows out: the work of one or two
// warpgroups. The leader scores a tile and turns scores into weights; each group weighs its share
// of the values. Heads are the columns of all products, so that no head is padded to 64.
//
// What takes the time is the number of instructions, so maxima and sums are not gathered from all
// threads for each tile: weights are relative to a reference that moves only where a score exceeds
// it by far, and each thread keeps sums of its own until a unit ends.
#pragma once

#include <type_traits>

#include "cuda/ptx/barrier.cuh"
#include "cuda/ptx/mma.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/columns.cuh"
#include "cuda/sm90/shared.cuh"

namespace steady::cuda::sm90 {

template <int kHeads, bool kLeader>
class Consumer {
 public:
  __device__ Consumer(const LayerCall& call, const PartRange& range, Shared<kHeads>& shared)
      : call_(call),
        range_(range),
        shared_(shared),
        thread_(static_cast<int>(threadIdx.x) % kGroupThreads) {}

  /// All tiles of this part.
  __device__ void part() {
    int step = 0;
    for (TileCursor tile(call_, range_); tile.valid(); tile.advance(), ++step) {
      // What follows from it is computed again for each tile: keeping it all takes more registers
      // than there are.
      thread_ = ptx::opaque(thread_);
      if (tile.first_of_unit()) {
        if (tile.first_of_row_here()) load_queries(tile.row());
        begin_unit();
      }
      const int buffer = step % kBuffers;
      ptx::wait(&shared_.full[buffer], step / kBuffers % 2);
      // An empty row's tile names nothing, and makes what is right for it: zeros.
      attend(buffer, tile.first_of_unit());
      if (lane() == 0) ptx::arrive(&shared_.empty[buffer]);
      if (tile.last_of_unit()) end_unit(tile);
    }
  }

 private:
  static constexpr int kThreads = kConsumerGroups<kHeads> * kGroupThreads;
  static constexpr int kOwnBlocks = kBlocks / kConsumerGroups<kHeads>;
  static constexpr int kFirstBlock = kLeader ? 0 : kOwnBlocks;
  static constexpr int kPairs = kHeads / 8;  // of columns that a lane has in a product
  static constexpr int kSums = kHeads / 2;   // of a lane in a product
  static constexpr int kVectorChunks = kHeadDim / kChunkDims;
  static constexpr int kHeadStep = kThreads / kVectorChunks;  // from chunk to chunk of a thread
  static constexpr int kAll = 1, kLeaders = 2;                // named barriers
  static constexpr float kSlack = 8.0f;  // a weight may be 2^kSlack; beyond, the reference moves
  static constexpr float kLog2e = 1.44269504088896340736f, kLn2 = 0.693147180559945309417f;

  __device__ int thread_of_all() const { return thread_ + (kLeader ? 0 : kGroupThreads); }
  __device__ int warp() const { return thread_ / 32; }
  __device__ int lane() const { return thread_ % 32; }
  __device__ int first_row() const { return 16 * warp() + row_of(lane()); }
  __device__ int column(int j) const { return column_of(lane(), j); }
  /// Whether this thread keeps the state of head thread_.
  __device__ bool keeps_state() const { return kLeader && thread_ < kHeads; }
  /// Whether this thread sums up half of a head's weights as bf16 has them; the last group's do.
  __device__ bool sums_weights() const {
    return kLeader == (kConsumerGroups<kHeads> == 1) && thread_ < 2 * kHeads;
  }
  __device__ static void sync_all() { ptx::sync(kAll, kThreads); }
  __device__ static void sync_leaders() { ptx::sync(kLeaders, kGroupThreads); }

  __device__ int first_head() const { return static_cast<int>(blockIdx.y) * kHeads; }
  __device__ int heads_here() const { return min(kHeads, call_.heads - first_head()); }

  /// A thread has one chunk of every kHeadStep-th head.
  __device__ int first_chunk_head() const { return thread_of_all() / kVectorChunks; }
  __device__ int own_chunk() const { return thread_of_all() % kVectorChunks; }
  __device__ Chunk* chunk_of(int head) const {
    return shared_.q[own_chunk() / kBlockChunks].at(head, own_chunk() % kBlockChunks);
  }

  __device__ void load_queries(int row) {
    constexpr int kChunks = kHeads / kHeadStep;
    constexpr int kMost = kConsumerGroups<kHeads> == 1 ? 8 : 4;  // as registers allow
    constexpr int kAtOnce = kChunks % kMost == 0 ? kMost : kChunks < kMost ? kChunks : kMost - 2;
    static_assert(kChunks % kAtOnce == 0);
    const Layer& layer = call_.layer;
    const uint16_t* q = layer.q + row_offset(layer.q_strides, call_.queries, row, first_head()) +
                        own_chunk() * kChunkDims;
    const bool aligned = reinterpret_cast<uintptr_t>(q) % sizeof(Chunk) == 0 &&
                         layer.q_strides.head % kChunkDims == 0;
#pragma unroll 1
    for (int first = first_chunk_head(); first < kHeads; first += kAtOnce * kHeadStep) {
      Chunk values[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int head = first + i * kHeadStep;
        const uint16_t* from = q + head * layer.q_strides.head;
        ptx::load_if(&values[i], from, head < heads_here() && aligned);
        if (!aligned && head < heads_here()) values[i] = read_chunk(from);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) *chunk_of(first + i * kHeadStep) = values[i];
    }
    ptx::fence_shared_writes();
    sync_all();
  }

  __device__ void begin_unit() {
    reference_ = -INFINITY;  // below any score by far
    if (keeps_state()) shared_.reference[thread_] = reference_;
    if constexpr (kLeader) sync_leaders();
    rounded_sum_ = 0.0f;
#pragma unroll
    for (float& sum : exact_sums_) sum = 0.0f;
    for (auto& block : sums_) ptx::forget(block);
  }

  /// `first` of a unit: there are no sums yet.
  __device__ void attend(int buffer, bool first) {
    if constexpr (kLeader) {
      float scores[kSums];
      score(buffer, scores);
      soften(buffer, scores);
    }
    sync_all();  // the weights are there
    weigh(buffer, first);
  }

  /// scores = tokens · q
  __device__ void score(int buffer, float (&scores)[kSums]) {
    ptx::begin_products();
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const uint64_t tokens = ptx::describe_operand(&shared_.tokens[buffer][block]);
      const uint64_t q = ptx::describe_operand(&shared_.q[block]);
#pragma unroll
      for (int d = 0; d < kBlockDims; d += 16) {
        const uint32_t bytes = d * sizeof(uint16_t);
        ptx::multiply_add<kHeads, false>(scores, ptx::advance(tokens, bytes),
                                         ptx::advance(q, bytes), block + d > 0);
      }
    }
    ptx::commit_products();
    ptx::wait_products<0>();
    ptx::pin(scores);
  }

  /// Turns scores into weights 2^(score - reference), in shared memory. Scores are logarithms to
  /// base 2 from here on until the unit ends.
  __device__ void soften(int buffer, float (&scores)[kSums]) {
    const bool named[2] = {shared_.named[buffer][first_row()],
                           shared_.named[buffer][first_row() + 8]};
    scale(scores);
    const bool moves = ptx::sync_any(kLeaders, kGroupThreads, exceeds(scores, named));
    if (moves) move_references(buffer, scores, named);
    if (thread_ == 0) shared_.moved[buffer] = moves;
    ptx::pin(scores);  // what exceeds() has made of them is not kept
    for_each_pairs([&](int j, auto pairs) { make_weights<pairs>(scores, j, named, buffer); });
    ptx::fence_shared_writes();
  }

  /// Calls body(first pair, how many) for all pairs of columns, two at a time where there are two.
  template <class Body>
  __device__ static void for_each_pairs(const Body& body) {
    if constexpr (kPairs > 1) {
#pragma unroll
      for (int j = 0; j + 1 < kPairs; j += 2) body(j, std::integral_constant<int, 2>());
    }
    if constexpr (kPairs % 2 == 1) body(kPairs - 1, std::integral_constant<int, 1>());
  }

  /// What `of_heads` has for column(j) and the next.
  __device__ float2 pair_at(const float (&of_heads)[kHeads], int j) const {
    return *reinterpret_cast<const float2*>(&of_heads[column(j)]);
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
      const float2 reference = pair_at(shared_.reference, j);
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
    for_each_pairs([&](int j, auto pairs) {
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
    sync_leaders();
    if (keeps_state()) move_reference(buffer);
    sync_leaders();
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const float2 factor = pair_at(shared_.old_weight[buffer], j);
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
      const float2 reference = pair_at(shared_.reference, first + j);
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

  /// sums = sums * old weights + values · weights
  __device__ void weigh(int buffer, bool first) {
    if (!first && shared_.moved[buffer]) rescale(shared_.old_weight[buffer]);
    for (auto& block : sums_) ptx::pin(block);
    ptx::begin_products();
    const uint64_t weights = ptx::describe_operand(&shared_.weights[buffer]);
#pragma unroll
    for (int block = 0; block < kOwnBlocks; ++block) {
      const uint64_t values = ptx::describe_operand(&shared_.tokens[buffer][kFirstBlock + block]);
#pragma unroll
      for (int token = 0; token < kTokens; token += 16) {
        ptx::multiply_add<kHeads, true>(
            sums_[block], ptx::advance(values, token * kBlockDims * sizeof(uint16_t)),
            ptx::advance(weights, token * sizeof(uint16_t)), !first || token > 0);
      }
    }
    ptx::commit_products();
    if (sums_weights()) sum_weights(buffer);
    ptx::wait_products<0>();
    for (auto& block : sums_) ptx::pin(block);
  }

  /// While products run.
  __device__ void sum_weights(int buffer) {
    const int head = thread_ / 2;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kBlockChunks / 2; ++i) {
      const Chunk chunk = *shared_.weights[buffer].at(head, thread_ % 2 * kBlockChunks / 2 + i);
      for (const uint32_t pair : {chunk.x, chunk.y, chunk.z, chunk.w})
        sum += __uint_as_float(pair << 16) + __uint_as_float(pair & 0xffff0000u);
    }
    if (shared_.moved[buffer]) rounded_sum_ *= shared_.old_weight[buffer][head];
    rounded_sum_ += sum;
  }

  __device__ void rescale(const float (&factors)[kHeads]) {
    const auto scale = [](float* four, const float2& factor) {
      four[0] *= factor.x;
      four[1] *= factor.y;
      four[2] *= factor.x;
      four[3] *= factor.y;
    };
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const float2 factor = pair_at(factors, j);
#pragma unroll
      for (auto& block : sums_) scale(&block[4 * j], factor);
    }
  }

  /// Leaves the unit where it belongs: among the slots, in the row so far, or in the answer.
  __device__ void end_unit(const TileCursor& tile) {
    // The sums have been made with rounded weights, the states with exact ones; bringing them to
    // the exact sum leaves only what rounding changed between the tokens.
    leave_sums();
    if (keeps_state()) {
      const auto& of_warp = shared_.of_warp;
      const float sum =
          (of_warp[0][thread_] + of_warp[1][thread_]) + (of_warp[2][thread_] + of_warp[3][thread_]);
      shared_.unit[thread_] = {reference_ * kLn2, sum};
      const float rounded = shared_.rounded_sum[0][thread_] + shared_.rounded_sum[1][thread_];
      shared_.factor[thread_] = sum == 0.0f ? 1.0f : sum / rounded;
    }
    sync_all();
    rescale(shared_.factor);
    const int unit = tile.unit();
    if (tile.plan().first_slot != RowPlan::kWhole) {
      store(tile.plan().first_slot + call_.limits.parts + unit, shared_.unit);
    } else {
      join_row(unit);
      if (unit + 1 < tile.unit_count()) store(static_cast<int>(blockIdx.x), shared_.row);
      if (tile.last_of_row_here()) finish(tile.row());
    }
    sync_all();  // what the unit left may be written again
  }

  /// Leaves what is gathered from all threads only now: the sums of the weights, exact for each
  /// warp and as bf16 has them.
  __device__ void leave_sums() {
    if (sums_weights()) shared_.rounded_sum[thread_ % 2][thread_ / 2] = rounded_sum_;
    if constexpr (kLeader) {
      for_each_pairs([&](int j, auto pairs) {
        float sums[2 * pairs];
#pragma unroll
        for (int i = 0; i < 2 * pairs; ++i) sums[i] = exact_sums_[2 * j + i];
        join_rows<pairs>(
            lane(), sums, [](float a, float b) { return a + b; }, &shared_.of_warp[warp()][8 * j]);
      });
    }
    sync_all();
  }

  /// The row so far lies in this part's own partial; joins it with the unit, in shared_.row and
  /// sums_.
  __device__ void join_row(int unit) {
    if (keeps_state()) {
      SoftmaxState& so_far = shared_.row[thread_];
      if (unit == 0) {
        so_far = shared_.unit[thread_];
      } else {
        const Merged merged = merge(so_far, shared_.unit[thread_]);
        shared_.merged[thread_] = merged;
        so_far = merged.state;
      }
    }
    sync_all();
    if (unit == 0) return;
    const float* left = first_sum_of(static_cast<int>(blockIdx.x));
    for_each_sum([&](int head, int offset, float& sum) {
      sum = merge_out(left[offset], sum, shared_.merged[head]);
    });
  }

  /// Writes `states` and sums_ as partial number `partial`.
  __device__ void store(int partial, const SoftmaxState* states) {
    if (kLeader && thread_ < heads_here())
      partial_states(call_, partial)[first_head() + thread_] = states[thread_];
    float* out = first_sum_of(partial);
    for_each_sum([&](int, int offset, float& sum) { out[offset] = sum; });
  }

  /// Where a partial keeps this thread's first sum.
  __device__ float* first_sum_of(int partial) const {
    return partial_out(call_, partial, first_head() + column(0)) + kFirstBlock * kBlockDims +
           first_row();
  }

  /// Calls body(head, offset from the first sum in a partial, sum) for the sums of this thread
  /// whose head exists.
  template <class Body>
  __device__ void for_each_sum(const Body& body) {
#pragma unroll
    for (int block = 0; block < kOwnBlocks; ++block) {
#pragma unroll
      for (int i = 0; i < kSums; ++i) {
        const int later_head = 8 * (i / 4) + i % 2, head = column(0) + later_head;
        const int offset = later_head * kHeadDim + block * kBlockDims + i / 2 % 2 * 8;
        if (head < heads_here()) body(head, offset, sums_[block][i]);
      }
    }
  }

  /// Writes out and lse of a row whose states are in shared_.row and whose output is in sums_.
  __device__ void finish(int row) {
    if (kLeader && thread_ < heads_here()) {
      const int head = first_head() + thread_;
      const Finished finished = finish_head(call_, shared_.row[thread_], head);
      shared_.factor[thread_] = finished.out_weight;
      write_lse(call_, finished, row, head);
    }
    sync_all();
    // Through shared memory, where the queries are no longer needed, for whole vectors to leave at
    // once.
#pragma unroll
    for (int block = 0; block < kOwnBlocks; ++block) {
      uint32_t answer[2 * kPairs];
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        const float2 factor = pair_at(shared_.factor, j);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          answer[2 * j + i] = bf16x2(sums_[block][4 * j + 2 * i] * factor.x,
                                     sums_[block][4 * j + 2 * i + 1] * factor.y);
        }
      }
      store_transposed<kPairs>(lane(), answer, [&](int head, int chunk) {
        return shared_.q[kFirstBlock + block].at(head, 2 * warp() + chunk);
      });
    }
    sync_all();
    write_out(row);
  }

  __device__ void write_out(int row) {
    const Layer& layer = call_.layer;
    uint16_t* out = layer.out + row_offset(layer.out_strides, call_.queries, row, first_head()) +
                    own_chunk() * kChunkDims;
#pragma unroll 2
    for (int head = first_chunk_head(); head < heads_here(); head += kHeadStep)
      write_chunk(out + head * layer.out_strides.head, *chunk_of(head));
  }

  const LayerCall& call_;
  const PartRange range_;
  Shared<kHeads>& shared_;
  int thread_;  // of the group
  // Of the unit so far.
  float reference_;                // of head thread_, if this thread keeps its state
  float exact_sums_[2 * kPairs];   // of this thread's rows' weights, a column each
  float rounded_sum_;              // of half a head's weights, if this thread sums them up
  float sums_[kOwnBlocks][kSums];  // 64 values by heads in each block
};

}  // namespace steady::cuda::sm90
