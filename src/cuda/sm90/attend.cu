// SPDX-License-Identifier: Apache-2.0
// A plan, a layer and cached tokens in; answers of whole rows, partials of split rows out. One
// block does a part's units for a group of heads: one warpgroup scores, one or two weigh, the
// others bring tokens.
#include "cuda/sm90/attend.hpp"

#include <iterator>

#include "cuda/faults.cuh"
#include "cuda/sm90/producer.cuh"
#include "cuda/sm90/scorer.cuh"
#include "cuda/sm90/weigher.cuh"

namespace steady::cuda::sm90 {
namespace {

/// Registers of a thread when a block begins, as the launch bounds have them: all of a
/// multiprocessor's, in steps of eight. Who takes more can have what others give up, and waits for
/// ever if that is not enough.
constexpr int kRegistersAtFirst = 65536 / kThreads / 8 * 8;
template <int kHeads>
constexpr int kScorerRegisters = kWeigherGroups<kHeads> == 1 ? 96 : 96;
template <int kHeads>
constexpr int kWeigherRegisters = kWeigherGroups<kHeads> == 1 ? 168 : 160;
template <int kHeads>
constexpr int kProducerRegisters = kWeigherGroups<kHeads> == 1 ? 120 : 96;

template <int kHeads>
__device__ void prepare(Shared<kHeads>& shared) {
  if (threadIdx.x == 0) {
    constexpr int kWeighers = kWeigherGroups<kHeads> * kWarps;
    for (int buffer = 0; buffer < kBuffers; ++buffer) {
      ptx::init_barrier(&shared.tokens_full[buffer], kProducerGroups<kHeads> * kWarps);
      ptx::init_barrier(&shared.tokens_empty[buffer], kWarps + kWeighers);
      ptx::init_barrier(&shared.weights_full[buffer], kWarps);
      ptx::init_barrier(&shared.weights_empty[buffer], kWeighers);
    }
  }
  __syncthreads();
}

/// Only a checked engine comes here.
__device__ inline void log_strays(const LayerCall& call, const PartRange& range) {
  for (TileCursor tile(call, range); tile.valid(); tile.advance()) {
    if (threadIdx.x >= kTokens) continue;
    const Position position = position_of(call, tile, static_cast<int>(threadIdx.x));
    if (position.slot != Position::kHole && !call.layer.scopes[position.scope].has(position.slot))
      log_stray(call, tile.row(), position.scope, position.in_scope, position.slot);
  }
}

template <int kHeads>
__global__ void __launch_bounds__(kThreads, 1)
    attend_kernel(const __grid_constant__ LayerCall call) {
  // It may be garbage until the plan is known to be there, but it is there to be read.
  const PartRange range = call.tables.plan.parts[blockIdx.x];
  if (!planned(call)) {
    if (blockIdx.y == 0) poison(call);
    return;
  }
  static_assert(kScorerRegisters<kHeads> + kWeigherGroups<kHeads> * kWeigherRegisters<kHeads> +
                    kProducerGroups<kHeads> * kProducerRegisters<kHeads> <=
                kThreads / kGroupThreads * kRegistersAtFirst);
  if (call.tables.faults != nullptr && blockIdx.y == 0) log_strays(call, range);
  auto& shared = *reinterpret_cast<Shared<kHeads>*>(ptx::dynamic_shared());
  prepare(shared);
  // The same for all lanes, so that the compiler sees that a warp has one role.
  const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kGroupThreads, 0);
  if (group == 0) {
    ptx::change_registers<kRegistersAtFirst, kScorerRegisters<kHeads>>();
    Scorer<kHeads>(call, range, shared).part();
  } else if (group <= kWeigherGroups<kHeads>) {
    ptx::change_registers<kRegistersAtFirst, kWeigherRegisters<kHeads>>();
    Weigher<kHeads>(call, range, shared, group - 1).part();
  } else {
    ptx::change_registers<kRegistersAtFirst, kProducerRegisters<kHeads>>();
    Producer<kHeads>(call, range, shared).part();
  }
}

struct Variant {
  int heads;
  void (*kernel)(const LayerCall);
  size_t shared_bytes;
};

template <int kHeads>
constexpr Variant variant() {
  return {kHeads, attend_kernel<kHeads>, sizeof(Shared<kHeads>)};
}

constexpr Variant kVariants[] = {variant<8>(),  variant<16>(), variant<24>(),
                                 variant<32>(), variant<48>(), variant<64>()};

const Variant& variant_of(int heads) {
  for (const Variant& variant : kVariants) {
    if (variant.heads >= heads) return variant;
  }
  return kVariants[std::size(kVariants) - 1];
}

int groups_of(int heads, int group) { return (heads + group - 1) / group; }

}  // namespace

int choose_heads(const Shape& shape, int rows, int multiprocessors) {
  constexpr int kLargest = 64, kSmallest = 16;
  int groups = groups_of(shape.heads, kLargest);
  // Halving a group saves less than half of its time, but a multiprocessor without work saves none.
  while (2 * groups * rows <= multiprocessors && groups_of(shape.heads, 2 * groups) >= kSmallest) {
    groups *= 2;
  }
  return variant_of(groups_of(shape.heads, groups)).heads;
}

size_t shared_bytes(int heads) { return variant_of(heads).shared_bytes; }

cudaError_t prepare_attend() {
  for (const Variant& variant : kVariants) {
    const cudaError_t error =
        cudaFuncSetAttribute(variant.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(variant.shared_bytes));
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t launch_attend(const LayerCall& call, int heads, cudaStream_t stream) {
  const Variant& variant = variant_of(heads);
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(call.limits.parts, groups_of(call.heads, variant.heads));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = variant.shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, variant.kernel, call);
}

}  // namespace steady::cuda::sm90
