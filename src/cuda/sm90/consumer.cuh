// SPDX-License-Identifier: Apache-2.0
// Tiles of tokens in, answers of whole rows and partials of split rows out: the work of a warpgroup
// for its share of a block's heads. Two warpgroups need nothing of each other, so that one's
// products run while the other turns scores into weights. Heads are the columns of all products, so
// that no head is padded to 64.
#pragma once

#include <cuda_bf16.h>

#include <type_traits>

#include "cuda/ptx/barrier.cuh"
#include "cuda/ptx/mma.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/shared.cuh"

namespace steady::cuda::sm90 {

template <int kHeads>
class Consumer {
 public:
  /// Group 0 or 1 of the block's.
  __device__ Consumer(const LayerCall& call, const PartRange& range, Shared<kHeads>& shared,
                      int group)
      : call_(call),
        range_(range),
        shared_(shared),
        group_(group),
        first_own_(group * kOwnHeads),
        thread_(static_cast<int>(threadIdx.x) % kGroupThreads) {}

  /// All tiles of this part.
  __device__ void part() {
    int step = 0;
    for (TileCursor tile(call_, range_); tile.valid(); tile.advance(), ++step) {
      // What follows from it is computed again for each tile: keeping it all takes more registers
      // than there are.
      thread_ = ptx::opaque(thread_);
      if (tile.first_of_row_here()) load_queries(tile.row());
      const int buffer = step % kBuffers;
      if (tile.first_of_unit()) begin_unit();
      if (tile.begin() >= tile.unit_end()) {
        skip(buffer, parity(step));
      } else {
        attend(buffer, parity(step), tile.first_of_unit());
      }
      if (tile.last_of_unit()) end_unit(tile);
    }
  }

 private:
  static constexpr int kOwnHeads = kHeads / kConsumerGroups<kHeads>;
  static constexpr int kPairs = kOwnHeads / 8;  // of columns that a lane has in a product
  static constexpr int kSums = kOwnHeads / 2;   // of a lane in a product
  static constexpr int kVectorChunks = kHeadDim / kChunkDims;
  static constexpr int kHeadStep =
      kGroupThreads / kVectorChunks;     // from chunk to chunk of a thread
  static constexpr int kBarrier = 1;     // and the next: one for each group
  static constexpr float kSlack = 8.0f;  // in steps of two by which scores may exceed the maximum
  static constexpr float kLog2e = 1.44269504088896340736f, kLn2 = 0.693147180559945309417f;

  __device__ int warp() const { return thread_ / 32; }
  __device__ int lane() const { return thread_ % 32; }
  /// Of a lane's sums: row of the first, column of the first in block `j` of eight.
  __device__ int first_row() const { return 16 * warp() + lane() / 4; }
  __device__ int column(int j) const { return 8 * j + 2 * (lane() % 4); }
  /// The head whose state this thread keeps, if it keeps one.
  __device__ bool keeps_state() const { return thread_ < kOwnHeads; }
  __device__ int own_head() const { return first_own_ + thread_; }
  __device__ void sync() const { ptx::sync(kBarrier + group_, kGroupThreads); }

  /// Of this group.
  __device__ int first_head() const { return static_cast<int>(blockIdx.y) * kHeads + first_own_; }
  __device__ int heads_here() const { return min(kOwnHeads, call_.heads - first_head()); }

  /// A thread has one chunk of every kHeadStep-th head.
  __device__ int first_chunk_head() const { return thread_ / kVectorChunks; }
  __device__ int own_chunk() const { return thread_ % kVectorChunks; }
  __device__ Chunk* chunk_of(int head) const {
    return shared_.q[own_chunk() / kBlockChunks].at(first_own_ + head, own_chunk() % kBlockChunks);
  }

  __device__ void load_queries(int row) {
    constexpr int kChunks = kOwnHeads / kHeadStep;
    constexpr int kAtOnce = kChunks % 8 == 0 ? 8 : kChunks % 6 == 0 ? 6 : kChunks;
    const Layer& layer = call_.layer;
    const uint16_t* q = layer.q + row_offset(layer.q_strides, call_.queries, row, first_head()) +
                        own_chunk() * kChunkDims;
    const bool aligned = reinterpret_cast<uintptr_t>(q) % sizeof(Chunk) == 0 &&
                         layer.q_strides.head % kChunkDims == 0;
    sync();  // the answer of the row before may still lie there
#pragma unroll 1
    for (int first = first_chunk_head(); first < kOwnHeads; first += kAtOnce * kHeadStep) {
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
    sync();
  }

  __device__ void begin_unit() {
    state_ = {};
    rounded_sum_ = 0.0f;
  }

  /// Of the phase in which a buffer's tile is ready.
  __device__ static uint32_t parity(int step) { return step / kBuffers % 2; }

  /// `first` of a unit: there are no sums yet.
  __device__ void attend(int buffer, uint32_t ready, bool first) {
    ptx::wait(&shared_.full[buffer], ready);
    float scores[kSums];
    score(buffer, scores);
    soften(buffer, scores);
    sync();  // the weights are there
    if (keeps_state()) join_sums();
    weigh(buffer, first);
    release(buffer);
  }

  /// The one tile of an empty row.
  __device__ void skip(int buffer, uint32_t ready) {
    ptx::wait(&shared_.full[buffer], ready);
    for (auto& block : sums_) {
      for (float& sum : block) sum = 0.0f;
    }
    release(buffer);
  }

  __device__ void release(int buffer) {
    if (lane() == 0) ptx::arrive(&shared_.empty[buffer]);
  }

  /// scores = tokens · q
  __device__ void score(int buffer, float (&scores)[kSums]) {
    ptx::begin_products();
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const uint64_t tokens = ptx::describe_operand(&shared_.tokens[buffer][block]);
      const uint64_t q = ptx::describe_operand(&shared_.q[block].rows[first_own_]);
#pragma unroll
      for (int d = 0; d < kBlockDims; d += 16) {
        const uint32_t bytes = d * sizeof(uint16_t);
        ptx::multiply_add<kOwnHeads, false>(scores, ptx::advance(tokens, bytes),
                                            ptx::advance(q, bytes), block + d > 0);
      }
    }
    ptx::commit_products();
    ptx::wait_products<0>();
    ptx::pin(scores);
  }

  /// Turns scores into weights e^(score - max), in shared memory, and joins the tile's maximum with
  /// that of the tiles before. Scores and maxima are logarithms to base 2 until the unit ends.
  __device__ void soften(int buffer, float (&scores)[kSums]) {
    const bool named[2] = {shared_.named[buffer][first_row()],
                           shared_.named[buffer][first_row() + 8]};
    const auto each = [](const auto& of_columns) {
#pragma unroll
      for (int j = 0; j + 1 < kPairs; j += 2) of_columns(j, std::integral_constant<int, 2>());
      if constexpr (kPairs % 2 == 1) of_columns(kPairs - 1, std::integral_constant<int, 1>());
    };
    each([&](int j, auto pairs) { find_max<pairs>(scores, j, named); });
    sync();
    if (keeps_state()) join_max();
    sync();
    each([&](int j, auto pairs) { make_weights<pairs>(scores, j, named); });
    ptx::fence_shared_writes();
  }

  /// Scales the scores of `kCount` pairs of columns from `first` on, and leaves the maxima of the
  /// warp's tokens.
  template <int kCount>
  __device__ void find_max(float (&scores)[kSums], int first, const bool (&named)[2]) {
    float most[2 * kCount];
#pragma unroll
    for (int i = 0; i < 2 * kCount; ++i) {
      float& upper = scores[4 * (first + i / 2) + i % 2];
      float& lower = scores[4 * (first + i / 2) + 2 + i % 2];
      upper *= call_.softmax_scale * kLog2e;
      lower *= call_.softmax_scale * kLog2e;
      most[i] = fmaxf(named[0] ? upper : -INFINITY, named[1] ? lower : -INFINITY);
    }
    reduce<kCount>(
        most, [](float a, float b) { return fmaxf(a, b); },
        &shared_.warp_max[warp()][first_own_ + 8 * first]);
  }

  /// Writes the weights of those columns and leaves their sums, exact and as bf16 has them.
  template <int kCount>
  __device__ void make_weights(const float (&scores)[kSums], int first, const bool (&named)[2]) {
    float sums[2 * kCount], rounded_sums[2 * kCount];
    uint32_t weights[2 * kCount];
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const float2 max =
          *reinterpret_cast<const float2*>(&shared_.max[first_own_ + column(first + j)]);
      const auto weight = [&](int i, int e) {
        const float score = scores[4 * (first + j) + 2 * i + e], limit = e == 0 ? max.x : max.y;
        return named[i] ? ptx::exp2_approximate(score - limit) : 0.0f;
      };
      float exact[2][2];
      __nv_bfloat162 rounded[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        exact[i][0] = weight(i, 0);
        exact[i][1] = weight(i, 1);
        rounded[i] = __floats2bfloat162_rn(exact[i][0], exact[i][1]);
        weights[2 * j + i] = *reinterpret_cast<const uint32_t*>(&rounded[i]);
      }
      sums[2 * j] = exact[0][0] + exact[1][0];
      sums[2 * j + 1] = exact[0][1] + exact[1][1];
      rounded_sums[2 * j] = __low2float(rounded[0]) + __low2float(rounded[1]);
      rounded_sums[2 * j + 1] = __high2float(rounded[0]) + __high2float(rounded[1]);
    }
    store_transposed<kCount>(weights, [&](int head, int chunk) {
      return shared_.weights.at(first_own_ + 8 * first + head, 2 * warp() + chunk);
    });
    const auto plus = [](float a, float b) { return a + b; };
    reduce<kCount>(sums, plus, &shared_.warp_sum[warp()][first_own_ + 8 * first]);
    reduce<kCount>(rounded_sums, plus, &shared_.warp_rounded_sum[warp()][first_own_ + 8 * first]);
  }

  /// Joins a value for each of `kCount` pairs of a lane's columns over the warp's rows, and writes
  /// one for each column. The lanes of a column halve what is left at each step, as long as there
  /// is more than one.
  template <int kCount, class Join>
  __device__ void reduce(float (&values)[2 * kCount], const Join& join, float* out) const {
    int first = 0, count = 2 * kCount;
    bool writes = true;
#pragma unroll
    for (int bit = 4; bit <= 16; bit *= 2) {
      const bool upper = (lane() & bit) != 0;
      if (count % 2 == 0) {
        count /= 2;
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
          if (i >= count) break;
          const float sent = upper ? values[i] : values[i + count];
          const float kept = upper ? values[i + count] : values[i];
          const float received = __shfl_xor_sync(~0u, sent, bit);
          values[i] = upper ? join(received, kept) : join(kept, received);
        }
        first += upper ? count : 0;
      } else {
#pragma unroll
        for (int i = 0; i < 2 * kCount; ++i) {
          if (i >= count) break;
          const float received = __shfl_xor_sync(~0u, values[i], bit);
          values[i] = upper ? join(received, values[i]) : join(values[i], received);
        }
        writes = writes && !upper;
      }
    }
#pragma unroll
    for (int i = 0; i < 2 * kCount; ++i) {
      if (i < count && writes) out[column((first + i) / 2) + (first + i) % 2] = values[i];
    }
  }

  /// Of one head, after all warps have their tile's maximum.
  __device__ void join_max() {
    const int head = own_head();
    float max = state_.max;
    for (int w = 0; w < kWarps; ++w) max = fmaxf(max, shared_.warp_max[w][head]);
    // Weights somewhat above one do no harm, and making all sums smaller takes time.
    if (state_.sum != 0.0f && max <= state_.max + kSlack) max = state_.max;
    const float old_weight = state_.sum == 0.0f ? 0.0f : ptx::exp2_approximate(state_.max - max);
    state_.max = max;
    state_.sum *= old_weight;
    rounded_sum_ *= old_weight;
    shared_.max[head] = max;
    shared_.old_weight[head] = old_weight;
  }

  __device__ void join_sums() {
    const int head = own_head();
    const auto all = [&](const float(&of_warp)[kWarps][kHeads]) {
      return (of_warp[0][head] + of_warp[1][head]) + (of_warp[2][head] + of_warp[3][head]);
    };
    state_.sum += all(shared_.warp_sum);
    rounded_sum_ += all(shared_.warp_rounded_sum);
  }

  /// sums = sums * old weights + values · weights
  __device__ void weigh(int buffer, bool first) {
    if (!first) rescale(shared_.old_weight);
    for (auto& block : sums_) ptx::pin(block);
    ptx::begin_products();
    const uint64_t weights = ptx::describe_operand(&shared_.weights.rows[first_own_]);
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const uint64_t values = ptx::describe_operand(&shared_.tokens[buffer][block]);
#pragma unroll
      for (int token = 0; token < kTokens; token += 16) {
        ptx::multiply_add<kOwnHeads, true>(
            sums_[block], ptx::advance(values, token * kBlockDims * sizeof(uint16_t)),
            ptx::advance(weights, token * sizeof(uint16_t)), !first || token > 0);
      }
    }
    ptx::commit_products();
    ptx::wait_products<0>();
    for (auto& block : sums_) ptx::pin(block);
  }

  /// Once the maximum has settled, most tiles leave the sums as they are.
  __device__ void rescale(const float (&factors)[kHeads]) {
    float2 mine[kPairs];
    bool changes = false;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      mine[j] = *reinterpret_cast<const float2*>(&factors[first_own_ + column(j)]);
      changes = changes || mine[j].x != 1.0f || mine[j].y != 1.0f;
    }
    if (!__any_sync(~0u, changes)) return;
#pragma unroll
    for (auto& block : sums_) {
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        block[4 * j] *= mine[j].x;
        block[4 * j + 1] *= mine[j].y;
        block[4 * j + 2] *= mine[j].x;
        block[4 * j + 3] *= mine[j].y;
      }
    }
  }

  /// Leaves the unit where it belongs: among the slots, in the row so far, or in the answer.
  __device__ void end_unit(const TileCursor& tile) {
    // The sums have been made with rounded weights, the states with exact ones; bringing them to
    // the exact sum leaves only what rounding changed between the tokens.
    if (keeps_state()) {
      state_.max *= kLn2;
      shared_.unit[own_head()] = state_;
      shared_.factor[own_head()] = state_.sum == 0.0f ? 1.0f : state_.sum / rounded_sum_;
    }
    sync();
    rescale(shared_.factor);
    const int unit = tile.unit();
    if (tile.plan().first_slot != RowPlan::kWhole) {
      store(tile.plan().first_slot + call_.limits.parts + unit, shared_.unit);
    } else {
      join_row(unit);
      if (unit + 1 < tile.unit_count()) store(static_cast<int>(blockIdx.x), shared_.row);
      if (tile.last_of_row_here()) finish(tile.row());
    }
    sync();  // what the unit left may be written again
  }

  /// The row so far lies in this part's own partial; joins it with the unit, in shared_.row and
  /// sums_.
  __device__ void join_row(int unit) {
    if (keeps_state()) {
      SoftmaxState& so_far = shared_.row[own_head()];
      if (unit == 0) {
        so_far = state_;
      } else {
        const Merged merged = merge(so_far, state_);
        shared_.merged[own_head()] = merged;
        so_far = merged.state;
      }
    }
    sync();
    if (unit == 0) return;
    const float* left = first_sum_of(static_cast<int>(blockIdx.x));
    for_each_sum([&](int head, int offset, float& sum) {
      sum = merge_out(left[offset], sum, shared_.merged[first_own_ + head]);
    });
  }

  /// Writes `states` and sums_ as partial number `partial`.
  __device__ void store(int partial, const SoftmaxState* states) {
    if (thread_ < heads_here())
      partial_states(call_, partial)[first_head() + thread_] = states[own_head()];
    float* out = first_sum_of(partial);
    for_each_sum([&](int, int offset, float& sum) { out[offset] = sum; });
  }

  /// Where a partial keeps this thread's first sum.
  __device__ float* first_sum_of(int partial) const {
    return partial_out(call_, partial, first_head() + column(0)) + first_row();
  }

  /// Calls body(head, offset from the first sum in a partial, sum) for the sums of this thread
  /// whose head exists.
  template <class Body>
  __device__ void for_each_sum(const Body& body) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
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
    if (thread_ < heads_here()) {
      const int head = first_head() + thread_;
      const Finished finished = finish_head(call_, shared_.row[own_head()], head);
      shared_.factor[own_head()] = finished.out_weight;
      write_lse(call_, finished, row, head);
    }
    sync();
    // Through shared memory, where the queries are no longer needed, for whole vectors to leave at
    // once.
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      uint32_t answer[2 * kPairs];
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        const float2 factor =
            *reinterpret_cast<const float2*>(&shared_.factor[first_own_ + column(j)]);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const __nv_bfloat162 pair = __floats2bfloat162_rn(
              sums_[block][4 * j + 2 * i] * factor.x, sums_[block][4 * j + 2 * i + 1] * factor.y);
          answer[2 * j + i] = *reinterpret_cast<const uint32_t*>(&pair);
        }
      }
      store_transposed<kPairs>(answer, [&](int head, int chunk) {
        return shared_.q[block].at(first_own_ + head, 2 * warp() + chunk);
      });
    }
    sync();
    write_out(row);
  }

  /// Stores a lane's columns as rows: `at(head, i)` is where eight values of a head go that the
  /// warp's rows 8 i … 8 i + 7 hold.
  template <int kCount, class At>
  __device__ void store_transposed(const uint32_t (&values)[2 * kCount], const At& at) const {
    const int matrix = lane() / 8, row = lane() % 8;
#pragma unroll
    for (int j = 0; j + 1 < kCount; j += 2) {
      const uint32_t four[4] = {values[2 * j], values[2 * j + 1], values[2 * j + 2],
                                values[2 * j + 3]};
      ptx::store_matrices_transposed(at(8 * (j + matrix / 2) + row, matrix % 2), four);
    }
    if constexpr (kCount % 2 == 1) {
      const uint32_t two[2] = {values[2 * kCount - 2], values[2 * kCount - 1]};
      ptx::store_matrices_transposed(at(8 * (kCount - 1) + row, matrix % 2), two);
    }
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
  const int group_, first_own_;
  int thread_;  // of the group
  /// Of own_head(): the unit so far.
  SoftmaxState state_;
  float rounded_sum_ = 0.0f;
  float sums_[kBlocks][kSums];  ///< of the unit: 64 values by heads in each block
};

}  // namespace steady::cuda::sm90
