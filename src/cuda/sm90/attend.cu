// SPDX-License-Identifier: Apache-2.0
// A plan, a layer and cached tokens in; answers of whole rows, partials of split rows out. One block
// does a part's units for a group of heads: in it one warpgroup brings tokens, one scores them, and
// two weigh half of the values each.
#include "cuda/sm90/attend.hpp"

#include <algorithm>

#include "core/dealing.hpp"
#include "cuda/sm90/finder.cuh"
#include "cuda/sm90/producer.cuh"
#include "cuda/sm90/scorer.cuh"
#include "cuda/sm90/weigher.cuh"

namespace steady::cuda::sm90 {
namespace {

/// Registers of a thread when a block begins, as the launch bounds have them: all of a
/// multiprocessor's. Who takes more can have what others give up, and waits for ever if that is not
/// enough.
constexpr int kRegistersAtFirst = 65536 / kThreads;
constexpr int kScorerRegisters = 120, kWeigherRegisters = 160, kProducerRegisters = 72;
static_assert(kScorerRegisters + kWeighers * kWeigherRegisters + kProducerRegisters <=
              kThreads / kGroupThreads * kRegistersAtFirst);

__device__ void prepare(Shared& shared) {
  if (threadIdx.x == 0) {
    for (uint32_t buffer = 0; buffer < kBuffers; ++buffer) {
      ptx::init_barrier(&shared.tokens_full[buffer], kWarps);
      ptx::init_barrier(&shared.tokens_empty[buffer], kWeighers * kWarps);
    }
    for (uint64_t& full : shared.found_full) ptx::init_barrier(&full, kWarps);
    ptx::init_barrier(shared.weights_full, kWarps);
    ptx::init_barrier(shared.weights_empty, kWeighers * kWarps);
    ptx::init_barrier(shared.unit_end_full, kWarps);
    ptx::fence_barriers();
  }
  if (threadIdx.x < sizeof(shared.ones) / sizeof(Chunk)) {
    const uint32_t ones = bf16x2(1.0f, 1.0f);
    (&shared.ones[0][0])[threadIdx.x] = {ones, ones, ones, ones};
    ptx::fence_shared_writes();
  }
  __syncthreads();
}

template <int kHeads>
__global__ void __launch_bounds__(kThreads, 1)
    attend_kernel(const __grid_constant__ LayerCall call,
                  const __grid_constant__ Divisors page_tokens) {
  auto& shared = *reinterpret_cast<Shared*>(ptx::dynamic_shared());
  prepare(shared);
  ptx::let_next_grid_begin();
  ptx::wait_for_earlier_grids();  // nothing of theirs may be read before, nor written
  // Asked for before the plan is known to be there: it may be garbage, but it is there to be read.
  uint4 own;
  ptx::load(&own, &call.tables.plan.parts[own_part()]);
  if (!planned(call)) {
    if (blockIdx.y == 0) poison(call);
    return;
  }
  const PartRange range = {{static_cast<int>(own.x), static_cast<int>(own.y)},
                           {static_cast<int>(own.z), static_cast<int>(own.w)}};
  if (!before(range.begin, range.end)) return;
  // The same for all lanes, so that the compiler sees that a warp has one role.
  const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kGroupThreads, 0);
  if (group == 0) {
    ptx::change_registers<kRegistersAtFirst, kScorerRegisters>();
    Scorer<kHeads>(call, page_tokens, shared).part(range);
  } else if (group == 1) {
    ptx::change_registers<kRegistersAtFirst, kProducerRegisters>();
    Producer(call, shared).part();
  } else {
    ptx::change_registers<kRegistersAtFirst, kWeigherRegisters>();
    Weigher<kHeads>(call, (group - 2) * kHeadDim / kWeighers, shared).part();
  }
}

auto kernel_of(int group_heads) { return group_heads <= 32 ? attend_kernel<32> : attend_kernel<64>; }

int groups_of(int heads, int group) { return (heads + group - 1) / group; }

}  // namespace

Spread choose_spread(const Shape& shape, const PlanLimits& limits, int rows, int multiprocessors) {
  const int64_t units = int64_t{rows} * cut_row(shape.longest_row(), limits).count;
  Spread spread = {};
  for (const int heads : {64, 32, 16, 8}) {
    const int groups = groups_of(shape.heads, heads);
    if (spread.groups != 0 && units * groups > multiprocessors) break;
    spread = {groups, std::clamp(multiprocessors / groups, 1, limits.parts)};
  }
  return spread;
}

size_t shared_bytes() { return sizeof(Shared); }

cudaError_t prepare_attend() {
  for (const auto kernel : {attend_kernel<32>, attend_kernel<64>}) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(sizeof(Shared)));
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t launch_attend(const LayerCall& call, const Spread& spread, cudaStream_t stream) {
  // It may begin while the grid before it in the stream ends: what it does before
  // wait_for_earlier_grids() touches nothing but its own shared memory.
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(call.limits.parts, spread.groups);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = sizeof(Shared);
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = 1;
  Divisors page_tokens;
  for (int scope = 0; scope < kScopes; ++scope) {
    // A scope without tokens has no pages.
    page_tokens.of_scope[scope] = Divisor(std::max(1, call.layer.scopes[scope].shape.page_tokens));
  }
  return cudaLaunchKernelEx(&config, kernel_of(group_heads(call.heads, spread.groups)), call,
                            page_tokens);
}

}  // namespace steady::cuda::sm90
