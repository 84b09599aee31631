// SPDX-License-Identifier: Apache-2.0
// A plan, a layer and cached tokens in; answers of whole rows, partials of split rows out. One CTA
// does a part's units for a group of heads with tensor cores that every card since sm_80 has. The
// bits of a head do not depend on the group: a score is always the sum of two halves of the vector,
// each in order.
#include "cuda/attend.hpp"

#include <cuda_bf16.h>

#include <algorithm>

#include "cuda/ptx/mma.cuh"
#include "cuda/row_state.cuh"
#include "cuda/tile.cuh"

namespace steady::cuda {
namespace {

constexpr int kWarps = kThreads / 32;
constexpr int kHalves = 2;  // of the 512 values, whose partial scores are added at the end
constexpr float kLog2e = 1.44269504088896340736f;

template <int kHeads>
struct Shared {
  __nv_bfloat16 q[kHeads][kVectorStride];  // later the row's answer
  __nv_bfloat16 tokens[kTokens][kVectorStride];
  float scores[kHalves][kHeads][kTokens + 4];
  __nv_bfloat16 weights[kHeads][kTokens + 8];
  SoftmaxState unit[kHeads], row[kHeads];
  Merged merged[kHeads];
  float old_weights[kHeads];   // later the weights that finish the row
  float rounded_sums[kHeads];  // of the weights as bf16 has them
  Raw raw_kinds[kTokens];
  alignas(16) bool named[kTokens];  // whether a slot named the token
  // The raw tile follows: [kTokens][raw bytes].
};

/// Accumulated outputs of one warp: 16 heads by kVectors columns of 8.
template <int kHeads>
struct Sums {
  static constexpr int kVectors = kHeads / 2;
  float at[kVectors][4];
};

/// Which heads, values and tokens a warp works on.
template <int kHeads>
struct Place {
  static constexpr int kHeadTiles = kHeads / 16;
  static constexpr int kTokensAWarp = kTokens / (kWarps / kHeadTiles / kHalves);
  static constexpr int kDimsAWarp = kHeadDim / (kWarps / kHeadTiles);

  int lane = static_cast<int>(threadIdx.x) % 32;
  int warp = static_cast<int>(threadIdx.x) / 32;
  int head = warp % kHeadTiles * 16;
  int half = warp / kHeadTiles % kHalves;
  int token = warp / kHeadTiles / kHalves * kTokensAWarp;
  int dim = warp / kHeadTiles * kDimsAWarp;

  // Row and column of a lane's first two sums in a 16×8 product; the other two lie 8 rows below.
  int row = lane / 4, column = lane % 4 * 2;
};

template <int kHeads>
class Attend {
 public:
  __device__ Attend(const LayerCall& call, uint8_t* memory, int raw_bytes)
      : call_(call),
        shared_(*reinterpret_cast<Shared<kHeads>*>(memory)),
        loader_(call, memory + sizeof(Shared<kHeads>), shared_.raw_kinds, raw_bytes) {}

  /// All units of this part, row after row.
  __device__ void part() {
    const PartRange range = call_.tables.plan.parts[blockIdx.x];
    for (int row = range.begin.row; row < range.end.row + (range.end.unit > 0 ? 1 : 0); ++row) {
      const RowPlan plan = call_.tables.plan.rows[row];
      const int tokens = plan.tokens[0] + plan.tokens[1];
      const Units units = cut_row(tokens, call_.limits);
      const int first = row == range.begin.row ? range.begin.unit : 0;
      const int end = row == range.end.row ? range.end.unit : units.count;
      if (first == end) continue;
      load_queries(row);
      for (int unit = first; unit < end; ++unit) {
        const int begin = unit * units.tokens_each;
        attend(row, plan, begin, min(begin + units.tokens_each, tokens));
        if (plan.first_slot != RowPlan::kWhole) {
          store(plan.first_slot + unit, shared_.unit);
        } else {
          if (unit > 0)
            merge_into_row();
          else
            set_row();
          if (unit + 1 < units.count) store(own_partial(), shared_.row);
        }
      }
      if (plan.first_slot == RowPlan::kWhole) finish(row);
    }
  }

 private:
  __device__ int first_head() const { return static_cast<int>(blockIdx.y) * kHeads; }
  __device__ int heads_here() const { return min(kHeads, call_.heads - first_head()); }

  __device__ void load_queries(int row) {
    __syncthreads();  // the row before may still be read
    const Layer& layer = call_.layer;
    constexpr int kChunks = kHeadDim / 8;
    for (int i = static_cast<int>(threadIdx.x); i < kHeads * kChunks; i += kThreads) {
      const int head = i / kChunks, d = i % kChunks * 8;
      uint4 chunk = {0, 0, 0, 0};
      if (head < heads_here()) {
        chunk = read_chunk(
            layer.q + row_offset(layer.q_strides, call_.queries, row, first_head() + head) + d);
      }
      *reinterpret_cast<uint4*>(&shared_.q[head][d]) = chunk;
    }
  }

  /// Leaves the partial of one unit in shared_.unit and sums_.
  __device__ void attend(int row, const RowPlan& plan, int begin, int end) {
    loader_.start(row, plan, begin, end);
    for (auto& vector : sums_.at) {
      for (float& sum : vector) sum = 0.0f;
    }
    __syncthreads();  // the unit before may still be read
    if (threadIdx.x < kHeads) {
      shared_.unit[threadIdx.x] = {};
      shared_.rounded_sums[threadIdx.x] = 0.0f;
    }
    loader_.fetch();
    for (int tile = begin; tile < end; tile += kTokens) {
      ptx::wait_copies();
      __syncthreads();
      loader_.dequantise(shared_.tokens[TileLoader::token()], &shared_.named[TileLoader::token()]);
      __syncthreads();
      if (tile + kTokens < end) loader_.fetch();
      score();
      __syncthreads();
      soften();
      __syncthreads();
      weigh();
    }
    __syncthreads();
    unround();
  }

  /// The outputs have been summed with rounded weights, the states with exact ones. Bringing the
  /// outputs to the exact sum leaves only what rounding changed between the tokens; a row of one
  /// token is exact.
  __device__ void unround() {
    const auto factor = [&](int head) {
      return shared_.unit[head].sum == 0.0f ? 1.0f
                                            : shared_.unit[head].sum / shared_.rounded_sums[head];
    };
    rescale(factor(place_.head + place_.row), factor(place_.head + place_.row + 8));
  }

  /// scores = q · tokens, one half of the values at a time.
  __device__ void score() {
    constexpr int kDims = kHeadDim / kHalves, kTiles = Place<kHeads>::kTokensAWarp / 8;
    // Even and odd steps add up apart: twice as many products are under way.
    float scores[2][kTiles][4] = {};
#pragma unroll 4
    for (int d = place_.half * kDims; d < (place_.half + 1) * kDims; d += 32) {
      uint32_t q[2][4];
      for (int i = 0; i < 2; ++i) {
        ptx::load_matrices(
            q[i], &shared_.q[place_.head + place_.lane % 16][d + 16 * i + place_.lane / 16 * 8]);
      }
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        uint32_t k[4];
        ptx::load_matrices(
            k, &shared_.tokens[place_.token + 8 * t + place_.lane % 8][d + place_.lane / 8 * 8]);
        ptx::multiply_add(scores[0][t], q[0], k[0], k[1]);
        ptx::multiply_add(scores[1][t], q[1], k[2], k[3]);
      }
    }
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      for (int i = 0; i < 2; ++i) {
        *reinterpret_cast<float2*>(&shared_.scores[place_.half][place_.head + place_.row + 8 * i]
                                                  [place_.token + 8 * t + place_.column]) = {
            scores[0][t][2 * i] + scores[1][t][2 * i],
            scores[0][t][2 * i + 1] + scores[1][t][2 * i + 1]};
      }
    }
  }

  /// Turns scores into weights e^(score - max) and adds them to the unit's states. Eight lanes
  /// share a head, four tokens each.
  __device__ void soften() {
    constexpr int kLanesAHead = 8, kTokensALane = kTokens / kLanesAHead;
    const int lane = place_.lane % kLanesAHead, token = lane * kTokensALane;
    const uint32_t named = *reinterpret_cast<const uint32_t*>(&shared_.named[token]);
    // A warp has four heads at a time, so all of its lanes stay for the shuffles.
#pragma unroll
    for (int head = static_cast<int>(threadIdx.x) / kLanesAHead; head < kHeads;
         head += kThreads / kLanesAHead) {
      const SoftmaxState old = shared_.unit[head];
      const float4 a = *reinterpret_cast<const float4*>(&shared_.scores[0][head][token]);
      const float4 b = *reinterpret_cast<const float4*>(&shared_.scores[1][head][token]);
      float scores[kTokensALane] = {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
      float max = -INFINITY;
      for (int t = 0; t < kTokensALane; ++t) {
        scores[t] *= call_.softmax_scale;
        if ((named >> (8 * t) & 1) != 0) max = fmaxf(max, scores[t]);
      }
      for (int step = kLanesAHead / 2; step > 0; step /= 2) {
        max = fmaxf(max, __shfl_xor_sync(~0u, max, step));
      }
      max = fmaxf(max, old.max);
      float weights[kTokensALane], sum = 0.0f;
      for (int t = 0; t < kTokensALane; ++t) {
        const bool counts = (named >> (8 * t) & 1) != 0;
        weights[t] = counts ? ptx::exp2_approximate((scores[t] - max) * kLog2e) : 0.0f;
        sum += weights[t];
      }
      auto* out = reinterpret_cast<__nv_bfloat162*>(&shared_.weights[head][token]);
      out[0] = __floats2bfloat162_rn(weights[0], weights[1]);
      out[1] = __floats2bfloat162_rn(weights[2], weights[3]);
      float rounded_sum = (__low2float(out[0]) + __high2float(out[0])) +
                          (__low2float(out[1]) + __high2float(out[1]));
      for (int step = kLanesAHead / 2; step > 0; step /= 2) {
        sum += __shfl_xor_sync(~0u, sum, step);
        rounded_sum += __shfl_xor_sync(~0u, rounded_sum, step);
      }
      __syncwarp();
      if (lane == 0) {
        const float old_weight =
            old.sum == 0.0f ? 0.0f : ptx::exp2_approximate((old.max - max) * kLog2e);
        shared_.unit[head] = {max, __fmaf_rn(old.sum, old_weight, sum)};
        shared_.rounded_sums[head] = __fmaf_rn(shared_.rounded_sums[head], old_weight, rounded_sum);
        shared_.old_weights[head] = old_weight;
      }
    }
  }

  /// sums = sums * old weights + weights · tokens.
  __device__ void weigh() {
    const float upper = shared_.old_weights[place_.head + place_.row];
    const float lower = shared_.old_weights[place_.head + place_.row + 8];
    uint32_t weights[2][4];
    for (int i = 0; i < 2; ++i) {
      ptx::load_matrices(
          weights[i],
          &shared_.weights[place_.head + place_.lane % 16][16 * i + place_.lane / 16 * 8]);
    }
    // Once the maximum has settled, most tiles leave the sums as they are.
    if (__any_sync(~0u, upper != 1.0f || lower != 1.0f)) rescale(upper, lower);
#pragma unroll
    for (int v = 0; v < Sums<kHeads>::kVectors; ++v) {
      uint32_t tokens[4];
      ptx::load_matrices_transposed(tokens, &shared_.tokens[place_.lane][place_.dim + 8 * v]);
      ptx::multiply_add(sums_.at[v], weights[0], tokens[0], tokens[1]);
      ptx::multiply_add(sums_.at[v], weights[1], tokens[2], tokens[3]);
    }
  }

  __device__ void rescale(float upper, float lower) {
#pragma unroll
    for (auto& vector : sums_.at) {
      vector[0] *= upper;
      vector[1] *= upper;
      vector[2] *= lower;
      vector[3] *= lower;
    }
  }

  __device__ void set_row() {
    if (threadIdx.x < kHeads) shared_.row[threadIdx.x] = shared_.unit[threadIdx.x];
    __syncthreads();
  }

  /// This part's, behind the slots.
  __device__ int own_partial() const { return call_.limits.slots + static_cast<int>(blockIdx.x); }

  /// The row so far lies in this part's own partial; joins it with the unit, in shared_.row and
  /// sums_.
  __device__ void merge_into_row() {
    if (threadIdx.x < kHeads) {
      shared_.merged[threadIdx.x] = merge(shared_.row[threadIdx.x], shared_.unit[threadIdx.x]);
      shared_.row[threadIdx.x] = shared_.merged[threadIdx.x].state;
    }
    __syncthreads();
    for_each_pair([&](int head, int d, float& a, float& b) {
      const float2 left = *reinterpret_cast<const float2*>(
          partial_out(call_, own_partial(), first_head() + head) + d);
      a = merge_out(left.x, a, shared_.merged[head]);
      b = merge_out(left.y, b, shared_.merged[head]);
    });
  }

  /// Writes `states` and sums_ as partial number `partial`.
  __device__ void store(int partial, const SoftmaxState* states) {
    if (static_cast<int>(threadIdx.x) < heads_here()) {
      partial_states(call_, partial)[first_head() + threadIdx.x] = states[threadIdx.x];
    }
    for_each_pair([&](int head, int d, float& a, float& b) {
      *reinterpret_cast<float2*>(partial_out(call_, partial, first_head() + head) + d) = {a, b};
    });
  }

  /// Calls body(head, d, sum of d, sum of d + 1) for the sums of this thread whose head exists.
  template <class Body>
  __device__ void for_each_pair(const Body& body) {
#pragma unroll
    for (int v = 0; v < Sums<kHeads>::kVectors; ++v) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int head = place_.head + place_.row + 8 * i;
        if (head < heads_here()) {
          body(head, place_.dim + 8 * v + place_.column, sums_.at[v][2 * i],
               sums_.at[v][2 * i + 1]);
        }
      }
    }
  }

  /// Writes out and lse of a row whose states are in shared_.row and whose output is in sums_.
  __device__ void finish(int row) {
    if (static_cast<int>(threadIdx.x) < heads_here()) {
      const int head = static_cast<int>(threadIdx.x);
      const Finished finished = finish_head(call_, shared_.row[head], first_head() + head);
      shared_.old_weights[head] = finished.out_weight;
      write_lse(call_, finished.lse, row, first_head() + head);
    }
    __syncthreads();
    // Through shared memory, where the queries are no longer needed, for whole vectors to leave at
    // once.
    for_each_pair([&](int head, int d, float& a, float& b) {
      const float weight = shared_.old_weights[head];
      *reinterpret_cast<__nv_bfloat162*>(&shared_.q[head][d]) =
          __floats2bfloat162_rn(a * weight, b * weight);
    });
    __syncthreads();
    write_out(row);
  }

  __device__ void write_out(int row) {
    const Layer& layer = call_.layer;
    constexpr int kChunks = kHeadDim / 8;
    for (int i = static_cast<int>(threadIdx.x); i < heads_here() * kChunks; i += kThreads) {
      const int head = i / kChunks, d = i % kChunks * 8;
      uint16_t* out =
          layer.out + row_offset(layer.out_strides, call_.queries, row, first_head() + head) + d;
      write_chunk(out, *reinterpret_cast<const uint4*>(&shared_.q[head][d]));
    }
  }

  const LayerCall& call_;
  Shared<kHeads>& shared_;
  TileLoader loader_;
  const Place<kHeads> place_;
  Sums<kHeads> sums_;
};

/// CTAs that share a multiprocessor, as far as registers go.
template <int kHeads>
inline constexpr int kCtas = kHeads == 64 ? 1 : 2;

template <int kHeads>
__global__ void __launch_bounds__(kThreads, kCtas<kHeads>)
    attend_kernel(const __grid_constant__ LayerCall call, int raw_bytes) {
  if (!planned(call)) {
    if (blockIdx.y == 0) poison(call);
    return;
  }
  Attend<kHeads>(call, ptx::dynamic_shared(), raw_bytes).part();
}

int raw_bytes(const Shape& shape) {
  bool bf16 = shape.window.max_tokens > 0 && shape.window.format == STEADY_CACHE_BF16;
  for (int kind = 0; kind < shape.kinds; ++kind) {
    const steady_pool_shape& pool = shape.compressed[kind];
    bf16 = bf16 || (pool.max_tokens > 0 && pool.format == STEADY_CACHE_BF16);
  }
  return bf16 ? kRawBf16Bytes : kRawFp8Bytes;
}

template <int kHeads>
size_t shared_bytes(const Shape& shape) {
  return sizeof(Shared<kHeads>) + static_cast<size_t>(kTokens) * raw_bytes(shape);
}

/// What a kernel is allowed holds for the whole process, and so for engines of all shapes.
template <int kHeads>
cudaError_t allow_shared(size_t limit) {
  const size_t most = sizeof(Shared<kHeads>) + size_t{kTokens} * kRawBf16Bytes;
  return cudaFuncSetAttribute(attend_kernel<kHeads>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(std::min(most, limit)));
}

}  // namespace

AttendChoice choose_attend(const Shape& shape, int rows, int multiprocessors, size_t limit) {
  const AttendChoice all[] = {{64, shared_bytes<64>(shape), raw_bytes(shape)},
                              {32, shared_bytes<32>(shape), raw_bytes(shape)},
                              {16, shared_bytes<16>(shape), raw_bytes(shape)}};
  AttendChoice choice = {0, 0, 0};
  for (const AttendChoice& smaller : all) {
    if (smaller.shared_bytes > limit) continue;
    const bool fewer_heads_help =
        choice.heads == 0 || choice.heads >= 2 * shape.heads ||
        rows * ((shape.heads + choice.heads - 1) / choice.heads) < multiprocessors;
    if (fewer_heads_help) choice = smaller;
  }
  return choice;
}

cudaError_t prepare_attend(size_t limit) {
  for (const auto allow : {allow_shared<64>, allow_shared<32>, allow_shared<16>}) {
    if (const cudaError_t error = allow(limit); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t launch_attend(const LayerCall& call, const AttendChoice& choice, cudaStream_t stream) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(call.limits.parts, (call.heads + choice.heads - 1) / choice.heads);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = choice.shared_bytes;
  config.stream = stream;
  const auto kernel = choice.heads == 64   ? attend_kernel<64>
                      : choice.heads == 32 ? attend_kernel<32>
                                           : attend_kernel<16>;
  return cudaLaunchKernelEx(&config, kernel, call, choice.raw_bytes);
}

}  // namespace steady::cuda
