// SPDX-License-Identifier: Apache-2.0
// A plan, a layer and cached tokens in; answers of whole rows, partials of split rows out. One
// cluster does a part's units for a group of heads; in each of its blocks one warpgroup scores, one
// weighs and two bring tokens.
#include "cuda/sm90/attend.hpp"

#include <algorithm>

#include "cuda/sm90/producer.cuh"
#include "cuda/sm90/scorer.cuh"
#include "cuda/sm90/weigher.cuh"

namespace steady::cuda::sm90 {
namespace {

/// Registers of a thread when a block begins, as the launch bounds have them: all of a
/// multiprocessor's. Who takes more can have what others give up, and waits for ever if that is not
/// enough.
constexpr int kRegistersAtFirst = 65536 / kThreads;
template <class S>
struct Registers {
  static constexpr bool kPair = S::kCluster == 2;
  static constexpr int kScorer = kPair && S::kHeads == 32 ? 104 : 112;
  static constexpr int kWeigher = !kPair ? 144 : S::kHeads == 32 ? 216 : 208;
  static constexpr int kProducer = kPair ? 96 : 120;
  static_assert(kScorer + kWeigher + 2 * kProducer <= kThreads / kGroupThreads * kRegistersAtFirst);
};

template <class S>
__device__ void prepare(Shared<S>& shared) {
  if (threadIdx.x == 0) {
    for (uint32_t buffer = 0; buffer < S::kTokenBuffers; ++buffer) {
      ptx::init_barrier(&shared.tokens_full[buffer], S::kTeamWarps);
      ptx::init_barrier(&shared.tokens_empty[buffer], 2 * kWarps);
    }
    for (uint32_t buffer = 0; buffer < S::kScoreBuffers; ++buffer) {
      for (int warp = 0; warp < kWarps; ++warp) {
        ptx::init_barrier(&shared.scores_full[warp][buffer], 1);
        ptx::init_barrier(&shared.scores_empty[warp][buffer], S::kCluster);
      }
    }
    ptx::fence_barriers();
  }
  if (threadIdx.x < sizeof(shared.ones) / sizeof(Chunk)) {
    const uint32_t ones = bf16x2(1.0f, 1.0f);
    (&shared.ones[0][0])[threadIdx.x] = {ones, ones, ones, ones};
    ptx::fence_shared_writes();
  }
  __syncthreads();
  ptx::sync_cluster();
}

template <class S>
__global__ void __launch_bounds__(kThreads, 1)
    attend_kernel(const __grid_constant__ LayerCall call,
                  const __grid_constant__ Divisors page_tokens) {
  auto& shared = *reinterpret_cast<Shared<S>*>(ptx::dynamic_shared());
  prepare(shared);
  ptx::let_next_grid_begin();
  ptx::wait_for_earlier_grids();  // nothing of theirs may be read before, nor written
  const int rank = ptx::cluster_rank();
  // It may be garbage until the plan is known to be there, but it is there to be read.
  const PartRange range = call.tables.plan.parts[own_part<S>()];
  if (!planned(call)) {
    if (blockIdx.y == 0) poison(call);
    return;
  }
  if (!TileCursor(call, range).valid()) return;  // nor does any other block of the cluster go on
  // The same for all lanes, so that the compiler sees that a warp has one role.
  const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kGroupThreads, 0);
  if (group == 0) {
    ptx::change_registers<kRegistersAtFirst, Registers<S>::kScorer>();
    Scorer<S>(call, range, rank, shared).part();
  } else if (group == 1) {
    ptx::change_registers<kRegistersAtFirst, Registers<S>::kWeigher>();
    Weigher<S>(call, range, shared).part();
  } else {
    ptx::change_registers<kRegistersAtFirst, Registers<S>::kProducer>();
    Producer<S>(call, page_tokens, range, rank, shared).part();
  }
  ptx::sync_cluster();  // others may still send scores here
}

struct Variant {
  int heads, cluster;
  void (*kernel)(const LayerCall, const Divisors);
  size_t shared_bytes;
};

template <int kHeads, int kCluster>
constexpr Variant variant() {
  using S = Share<kHeads, kCluster>;
  return {kHeads, kCluster, attend_kernel<S>, sizeof(Shared<S>)};
}

constexpr Variant kVariants[] = {variant<32, 2>(), variant<64, 2>(), variant<32, 4>()};

const Variant& variant_of(int cluster, int heads) {
  return *std::find_if(std::begin(kVariants), std::end(kVariants), [&](const Variant& variant) {
    return variant.cluster == cluster && variant.heads >= heads;
  });
}

/// A launch in clusters that may begin while the grid before it in the stream ends: what it does
/// before wait_for_earlier_grids() touches nothing but its own shared memory.
struct Launch {
  Launch(const Variant& variant, int parts, int groups, cudaStream_t stream) {
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim.x = variant.cluster;
    attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = dim3(parts * variant.cluster, groups);
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = variant.shared_bytes;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = 2;
  }
  Launch(const Launch&) = delete;  // config points to attributes
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = {};
};

int groups_of(int heads, int group) { return (heads + group - 1) / group; }

}  // namespace

Spread choose_spread(const Shape& shape, const PlanLimits& limits, int rows, const Room& room) {
  struct Grain {
    int heads, cluster;
  };
  constexpr Grain kFromCoarse[] = {{64, 2}, {32, 2}, {32, 4}, {16, 4}, {8, 4}};
  const int64_t units = int64_t{rows} * cut_row(shape.longest_row(), limits).count;
  Spread spread = {};
  for (const Grain& grain : kFromCoarse) {
    const int groups = groups_of(shape.heads, grain.heads);
    const int clusters = grain.cluster == 2 ? room.pairs : room.fours;
    if (spread.cluster != 0 && units * groups > clusters) break;
    spread = {grain.cluster, groups, std::clamp(clusters / groups, 1, limits.parts)};
  }
  return spread;
}

size_t shared_bytes(int cluster, int group_heads) {
  return variant_of(cluster, group_heads).shared_bytes;
}

cudaError_t prepare_attend(Room* room) {
  for (const Variant& variant : kVariants) {
    cudaError_t error =
        cudaFuncSetAttribute(variant.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(variant.shared_bytes));
    if (error != cudaSuccess) return error;
    const Launch launch(variant, 1, 1, nullptr);
    error = cudaOccupancyMaxActiveClusters(variant.cluster == 2 ? &room->pairs : &room->fours,
                                           variant.kernel, &launch.config);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t launch_attend(const LayerCall& call, const Spread& spread, cudaStream_t stream) {
  const Variant& variant = variant_of(spread.cluster, group_heads(call.heads, spread.groups));
  const Launch launch(variant, call.limits.parts, spread.groups, stream);
  Divisors page_tokens;
  for (int scope = 0; scope < kScopes; ++scope) {
    // A scope without tokens has no pages.
    page_tokens.of_scope[scope] = Divisor(std::max(1, call.layer.scopes[scope].shape.page_tokens));
  }
  return cudaLaunchKernelEx(&launch.config, variant.kernel, call, page_tokens);
}

}  // namespace steady::cuda::sm90
