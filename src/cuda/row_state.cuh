// SPDX-License-Identifier: Apache-2.0
// The arithmetic that attend and merge must share to the bit, and where a row's vectors lie.
#pragma once

#include "core/shape.hpp"
#include "core/work.hpp"
#include "cuda/attend.hpp"
#include "numeric/softmax_state.hpp"

namespace steady::cuda {

/// Unfinished output of two merged states. Rounded as written, whatever is inlined where.
__device__ inline float merge_out(float left, float right, const Merged& merged) {
  return __fmaf_rn(right, merged.right_weight, __fmul_rn(left, merged.left_weight));
}

__device__ inline int64_t row_offset(const steady_strides& strides, const Divisor& queries, int row,
                                     int head) {
  const int request = queries.divide(row), query = row - request * queries.number();
  return request * strides.batch + query * strides.query + head * strides.head;
}

/// Without sinks one that weighs nothing.
__device__ inline float sink_of(const LayerCall& call, int head) {
  return call.layer.sink != nullptr ? call.layer.sink[head] : -INFINITY;
}

__device__ inline Finished finish_head(const LayerCall& call, const SoftmaxState& state, int head) {
  return finish(state, sink_of(call, head), call.layer.empty_lse());
}

__device__ inline void write_lse(const LayerCall& call, float lse, int row, int head) {
  const Layer& layer = call.layer;
  if (layer.lse != nullptr) layer.lse[row_offset(layer.lse_strides, call.queries, row, head)] = lse;
}

/// Eight bf16 of a query, which may lie at any address of an element.
__device__ inline uint4 read_chunk(const uint16_t* q) {
  if (reinterpret_cast<uintptr_t>(q) % sizeof(uint4) == 0)
    return *reinterpret_cast<const uint4*>(q);
  const auto pair = [&](int i) { return q[i] | static_cast<uint32_t>(q[i + 1]) << 16; };
  return {pair(0), pair(2), pair(4), pair(6)};
}

/// The same for an answer.
__device__ inline void write_chunk(uint16_t* out, const uint4& chunk) {
  if (reinterpret_cast<uintptr_t>(out) % sizeof(uint4) == 0) {
    *reinterpret_cast<uint4*>(out) = chunk;
    return;
  }
  const uint32_t pairs[] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
  for (int i = 0; i < 8; ++i) out[i] = static_cast<uint16_t>(pairs[i / 2] >> (16 * (i % 2)));
}

/// A partial lies in the workspace by its number: the slots first, then, for the portable kernels,
/// what parts have of their own.
__device__ inline SoftmaxState* partial_states(const LayerCall& call, int partial) {
  return call.tables.states + static_cast<int64_t>(partial) * call.heads;
}

__device__ inline float* partial_out(const LayerCall& call, int partial, int head) {
  return call.tables.outs + (static_cast<int64_t>(partial) * call.heads + head) * kHeadDim;
}

/// Without a plan nothing is known to be safe to read: the answers say so as NaN.
__device__ inline void poison(const LayerCall& call) {
  const Layer& layer = call.layer;
  const int rows = layer.batch * call.queries.number(), threads = static_cast<int>(blockDim.x);
  for (int row = static_cast<int>(blockIdx.x); row < rows; row += static_cast<int>(gridDim.x)) {
    for (int i = static_cast<int>(threadIdx.x); i < call.heads * kHeadDim; i += threads) {
      layer.out[row_offset(layer.out_strides, call.queries, row, i / kHeadDim) + i % kHeadDim] =
          0x7fc0;
    }
    for (int head = static_cast<int>(threadIdx.x); layer.lse != nullptr && head < call.heads;
         head += threads) {
      layer.lse[row_offset(layer.lse_strides, call.queries, row, head)] = NAN;
    }
  }
}

/// Whether the workspace holds this engine's plan for this batch.
__device__ inline bool planned(const LayerCall& call) {
  const PlanHeader& header = *call.tables.plan.header;
  return header.seal == call.seal && header.batch == call.layer.batch;
}

}  // namespace steady::cuda
