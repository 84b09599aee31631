// SPDX-License-Identifier: Apache-2.0
// Tiles of tokens and their weights in, answers of whole rows and partials of split rows out: the
// work of one or two warpgroups, each of which weighs its share of the values. Between rows they
// bring the queries.
#pragma once

#include "cuda/ptx/mma.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/columns.cuh"
#include "cuda/sm90/shared.cuh"

namespace steady::cuda::sm90 {

template <int kHeads>
class Weigher {
 public:
  /// `group` counts the weighers.
  __device__ Weigher(const LayerCall& call, const PartRange& range, Shared<kHeads>& shared,
                     int group)
      : call_(call),
        range_(range),
        shared_(shared),
        group_(group),
        row_(range.begin.row),
        thread_(static_cast<int>(threadIdx.x) % kGroupThreads) {}

  /// All tiles of this part.
  __device__ void part() {
    if (!TileCursor(call_, range_).valid()) return;
    bring_queries();
    for (int step = 0;; ++step) {
      // What follows from it is computed again for each tile: keeping it all takes more registers
      // than there are.
      thread_ = ptx::opaque(thread_);
      const int buffer = step % kBuffers;
      const uint32_t phase = step / kBuffers % 2;
      ptx::wait(&shared_.tokens_full[buffer], phase);
      ptx::wait(&shared_.weights_full[buffer], phase);
      const Order order = shared_.order[buffer];
      if (order.first_of_unit) begin_unit();
      weigh(buffer, order.first_of_unit);
      __syncwarp();
      if (lane() == 0) {
        ptx::arrive(&shared_.tokens_empty[buffer]);
        ptx::arrive(&shared_.weights_empty[buffer]);
      }
      if (order.last_of_unit) end_unit(order);
      if (order.last_of_part) return;
    }
  }

 private:
  static constexpr int kThreads = kWeigherGroups<kHeads> * kGroupThreads;
  static constexpr int kOwnBlocks = kBlocks / kWeigherGroups<kHeads>;
  static constexpr int kPairs = kHeads / 8;  // of columns that a lane has in a product
  static constexpr int kSums = kHeads / 2;   // of a lane in a product
  static constexpr int kVectorChunks = kHeadDim / kChunkDims;
  static constexpr int kHeadStep = kThreads / kVectorChunks;  // from chunk to chunk of a thread

  __device__ int first_block() const { return group_ * kOwnBlocks; }
  __device__ int warp() const { return thread_ / 32; }
  __device__ int lane() const { return thread_ % 32; }
  __device__ int first_row() const { return 16 * warp() + row_of(lane()); }
  /// Whether this thread sums up half of a head's weights as bf16 has them; the last group's do.
  __device__ bool sums_weights() const {
    return group_ == kWeigherGroups<kHeads> - 1 && thread_ < 2 * kHeads;
  }
  __device__ static void sync() { ptx::sync(NamedBarriers::kWeighers, kThreads); }

  /// A thread has one chunk of every kHeadStep-th head.
  __device__ int thread_of_all() const { return group_ * kGroupThreads + thread_; }
  __device__ int first_chunk_head() const { return thread_of_all() / kVectorChunks; }
  __device__ int own_chunk() const { return thread_of_all() % kVectorChunks; }
  __device__ Chunk* chunk_of(int head) const {
    return shared_.q[own_chunk() / kBlockChunks].at(head, own_chunk() % kBlockChunks);
  }

  __device__ void begin_unit() {
    rounded_sum_ = 0.0f;
    for (auto& block : sums_) ptx::forget(block);
  }

  /// Of row row_, for the scorer.
  __device__ void bring_queries() {
    load_queries(row_);
    ptx::fence_shared_writes();
    sync_scorer_and_weighers<kHeads>();
  }

  __device__ void load_queries(int row) {
    constexpr int kChunks = kHeads / kHeadStep;
    constexpr int kMost = 8;  // as registers allow
    constexpr int kAtOnce = kChunks % kMost == 0 ? kMost : kChunks < kMost ? kChunks : kMost - 2;
    static_assert(kChunks % kAtOnce == 0);
    const Layer& layer = call_.layer;
    const uint16_t* q = layer.q +
                        row_offset(layer.q_strides, call_.queries, row, first_head<kHeads>()) +
                        own_chunk() * kChunkDims;
    const int heads = heads_here<kHeads>(call_);
    const bool aligned = reinterpret_cast<uintptr_t>(q) % sizeof(Chunk) == 0 &&
                         layer.q_strides.head % kChunkDims == 0;
    if (!aligned) {
#pragma unroll 1
      for (int head = first_chunk_head(); head < kHeads; head += kHeadStep)
        *chunk_of(head) = head < heads ? read_chunk(q + head * layer.q_strides.head) : Chunk{};
      return;
    }
#pragma unroll 1
    for (int first = first_chunk_head(); first < kHeads; first += kAtOnce * kHeadStep) {
      Chunk values[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int head = first + i * kHeadStep;
        ptx::load_if(&values[i], q + head * layer.q_strides.head, head < heads);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) *chunk_of(first + i * kHeadStep) = values[i];
    }
  }

  /// sums = sums * old weights + values · weights; `first` of a unit: there are no sums yet.
  __device__ void weigh(int buffer, bool first) {
    if (!first && shared_.moved[buffer]) rescale(shared_.old_weight[buffer]);
    for (auto& block : sums_) ptx::pin(block);
    ptx::begin_products();
    const uint64_t weights = ptx::describe_operand(&shared_.weights[buffer]);
#pragma unroll
    for (int block = 0; block < kOwnBlocks; ++block) {
      const uint64_t values = ptx::describe_operand(&shared_.tokens[buffer][first_block() + block]);
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
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const float2 factor = pair_at(factors, lane(), j);
#pragma unroll
      for (auto& block : sums_) {
        block[4 * j] *= factor.x;
        block[4 * j + 1] *= factor.y;
        block[4 * j + 2] *= factor.x;
        block[4 * j + 3] *= factor.y;
      }
    }
  }

  /// Leaves the unit where it belongs: among the slots, in the row so far, or in the answer.
  __device__ void end_unit(const Order& order) {
    if (sums_weights()) shared_.rounded_sum[thread_ % 2][thread_ / 2] = rounded_sum_;
    sync_scorer_and_weighers<kHeads>();  // the sums are there
    sync_scorer_and_weighers<kHeads>();  // what follows from them is
    rescale(shared_.factor);
    if (order.joins) join_row();
    if (order.finishes) {
      finish();
    } else {
      store(order.partial);
    }
    if (order.last_of_row_here && !order.last_of_part) {
      ++row_;
      sync();  // the answer has left the queries' place
      bring_queries();
    } else {
      sync_scorer_and_weighers<kHeads>();  // what the unit left may be written again
    }
  }

  __device__ void join_row() {
    const float* left = first_sum_of(static_cast<int>(blockIdx.x));
    for_each_sum([&](int head, int offset, float& sum) {
      sum = merge_out(left[offset], sum, shared_.merged[head]);
    });
  }

  /// Writes the sums of partial number `partial`.
  __device__ void store(int partial) {
    float* out = first_sum_of(partial);
    for_each_sum([&](int, int offset, float& sum) { out[offset] = sum; });
  }

  /// Where a partial keeps this thread's first sum.
  __device__ float* first_sum_of(int partial) const {
    return partial_out(call_, partial, first_head<kHeads>() + column_of(lane(), 0)) +
           first_block() * kBlockDims + first_row();
  }

  /// Calls body(head of the block, offset from the first sum, sum) for what belongs to heads that
  /// there are.
  template <class Body>
  __device__ void for_each_sum(const Body& body) {
    const int heads = heads_here<kHeads>(call_);
#pragma unroll
    for (int block = 0; block < kOwnBlocks; ++block) {
#pragma unroll
      for (int i = 0; i < kSums; ++i) {
        const int later_head = 8 * (i / 4) + i % 2, head = column_of(lane(), 0) + later_head;
        const int offset = later_head * kHeadDim + block * kBlockDims + i / 2 % 2 * 8;
        if (head < heads) body(head, offset, sums_[block][i]);
      }
    }
  }

  /// Writes the row's answer, through shared memory, where the queries are no longer needed, for
  /// whole vectors to leave at once.
  __device__ void finish() {
#pragma unroll
    for (int block = 0; block < kOwnBlocks; ++block) {
      uint32_t answer[2 * kPairs];
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        const float2 factor = pair_at(shared_.out_weight, lane(), j);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          answer[2 * j + i] = bf16x2(sums_[block][4 * j + 2 * i] * factor.x,
                                     sums_[block][4 * j + 2 * i + 1] * factor.y);
        }
      }
      store_transposed<kPairs>(lane(), answer, [&](int head, int chunk) {
        return shared_.q[first_block() + block].at(head, 2 * warp() + chunk);
      });
    }
    sync();
    const Layer& layer = call_.layer;
    uint16_t* out = layer.out +
                    row_offset(layer.out_strides, call_.queries, row_, first_head<kHeads>()) +
                    own_chunk() * kChunkDims;
    const int heads = heads_here<kHeads>(call_);
#pragma unroll 2
    for (int head = first_chunk_head(); head < heads; head += kHeadStep)
      write_chunk(out + head * layer.out_strides.head, *chunk_of(head));
  }

  const LayerCall& call_;
  const PartRange range_;
  Shared<kHeads>& shared_;
  const int group_;
  int row_;
  int thread_;  // of the group
  // Of the unit so far.
  float rounded_sum_;              // of half a head's weights, if this thread sums them up
  float sums_[kOwnBlocks][kSums];  // 64 values by heads in each block
};

}  // namespace steady::cuda::sm90
