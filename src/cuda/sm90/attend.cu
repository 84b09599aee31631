// SPDX-License-Identifier: Apache-2.0
// A plan, a layer and cached tokens in; answers of whole rows, partials of split rows out. Chooses
// between eights, fours and pairs of blocks that share a row's values, with heads as columns or as
// rows of products, and blocks that have whole vectors, and launches them.
#include "cuda/sm90/attend.hpp"

#include <algorithm>
#include <limits>

#include "cuda/sm90/block/attend.cuh"
#include "cuda/sm90/columns/attend.cuh"
#include "cuda/sm90/pair/attend.cuh"

namespace steady::cuda::sm90 {
namespace {

struct Variant {
  int heads, cluster, threads;
  void (*kernel)(const Call);
  size_t shared_bytes;
  int sharers = 1;  // groups of heads whose blocks are a cluster and bring each other tokens
};

template <int kHeads, int kSharers>
constexpr Variant in_block() {
  return {kHeads,  1, kThreads, block::block_kernel<kHeads, kSharers>, sizeof(block::Shared),
          kSharers};
}
template <int kHeads>
constexpr Variant in_pair() {
  return {kHeads, 2, kThreads, pair::pair_kernel<kHeads>,
          sizeof(pair::Shared<pair::Share<kHeads>>)};
}
template <int kCluster, int kHeads>
constexpr Variant in_columns() {
  return {kHeads, kCluster, columns::kThreads, columns::columns_kernel<kCluster, kHeads>,
          sizeof(columns::Shared<columns::Share<kCluster, kHeads>>)};
}

/// Of each cluster size and as many sharers the smallest that has room for the heads is used.
constexpr Variant kVariants[] = {in_block<32, 1>(),   in_block<64, 1>(),   in_block<64, 2>(),
                                 in_columns<2, 8>(),  in_columns<2, 16>(), in_pair<32>(),
                                 in_pair<64>(),       in_columns<4, 8>(),  in_columns<4, 16>(),
                                 in_columns<4, 24>(), in_columns<4, 32>(), in_columns<8, 8>()};

constexpr bool fit(const Variant& variant) { return variant.shared_bytes <= 227 * 1024; }
static_assert(std::all_of(std::begin(kVariants), std::end(kVariants), fit),
              "a block takes more shared memory than a multiprocessor has for it");

/// Blocks with whole vectors share tokens where heads are two groups.
const Variant& variant_of(int cluster, int groups, int heads) {
  const int sharers = cluster == 1 && groups == 2 ? 2 : 1;
  return *std::find_if(std::begin(kVariants), std::end(kVariants), [&](const Variant& variant) {
    return variant.cluster == cluster && variant.sharers == sharers && variant.heads >= heads;
  });
}

/// A launch, in clusters if need be, that may begin while the grid before it in the stream ends:
/// until wait_for_earlier_grids() it reads the plan and touches its own shared memory, nothing
/// else.
struct Launch {
  Launch(const Variant& variant, int parts, int groups, cudaStream_t stream) {
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim.x = variant.cluster;
    attributes[0].val.clusterDim.y = variant.sharers;
    attributes[0].val.clusterDim.z = 1;
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = dim3(parts * variant.cluster, groups);
    config.blockDim = dim3(variant.threads);
    config.dynamicSmemBytes = variant.shared_bytes;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = 2;
  }
  Launch(const Launch&) = delete;  // config points to attributes
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = {};
};

/// Blocks with whole vectors keep the way from a token to its scales in 32 bits.
bool has_short_pages(const Shape& shape) {
  constexpr int kMostTokens = std::numeric_limits<int32_t>::max() / STEADY_FP8_TOKEN_BYTES;
  for (int kind = 0; kind < shape.kinds; ++kind) {
    for (int scope = 0; scope < kScopes; ++scope) {
      const steady_pool_shape& pool = shape.scope(kind, scope);
      if (pool.max_tokens > 0 && pool.format == STEADY_CACHE_FP8 && pool.page_tokens > kMostTokens)
        return false;
    }
  }
  return true;
}

/// For clusters of that size.
template <class R>
auto& room_of(int cluster, R& room) {
  return cluster == 2 ? room.pairs : cluster == 4 ? room.fours : room.eights;
}

int groups_of(int heads, int group) { return (heads + group - 1) / group; }

/// So many parts that equal units come out even, if that costs a sixteenth of `most` at most:
/// borders between others miss those between units, and some parts get one more.
int even_parts(int64_t units, int most) {
  const int64_t rounds = (units + most - 1) / most;
  const auto even = static_cast<int>((units + rounds - 1) / rounds);
  return rounds == 1 || even >= most - most / 16 ? even : most;
}

}  // namespace

Spread choose_spread(const Shape& shape, const PlanLimits& limits, int rows, const Room& room) {
  struct Grain {
    int heads, cluster;
  };
  constexpr Grain kFromCoarse[] = {{64, 2}, {32, 2}, {16, 2}, {32, 4},
                                   {24, 4}, {16, 4}, {8, 4},  {8, 8}};
  const int large_groups = groups_of(shape.heads, 64);
  const int64_t units = int64_t{rows} * cut_row(shape.longest_row(), limits).count;
  // Rows that pairs do not do in one round: blocks take less time, unless heads are so few that
  // they are columns in pairs and rows so long that their beginning and end are little of them.
  // Rows and not units, because few rows may be shorter than they could be, and then each of them
  // would have one block alone.
  constexpr int kShortRow = 256;
  const bool pairs_are_fast = shape.heads <= kPairColumns && shape.longest_row() > kShortRow;
  if (int64_t{rows} * large_groups > room.pairs && !pairs_are_fast && has_short_pages(shape))
    return {1, large_groups, even_parts(units, limits.parts)};
  Spread spread = {};
  for (const Grain& grain : kFromCoarse) {
    const int groups = groups_of(shape.heads, grain.heads);
    // Eights were measured where the next grid, which begins while this one ends, finds room, too.
    const int clusters = grain.cluster == 8 ? (room.eights + 1) / 2 : room_of(grain.cluster, room);
    if (spread.cluster != 0 && units * groups > clusters) break;
    spread = {grain.cluster, groups,
              even_parts(units, std::clamp(clusters / groups, 1, limits.parts))};
  }
  return spread;
}

size_t shared_bytes(int cluster, int groups, int group_heads) {
  return variant_of(cluster, groups, group_heads).shared_bytes;
}

cudaError_t prepare_attend(Room* room) {
  room->pairs = room->fours = room->eights = std::numeric_limits<int>::max();
  for (const Variant& variant : kVariants) {
    cudaError_t error =
        cudaFuncSetAttribute(variant.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(variant.shared_bytes));
    if (error != cudaSuccess) return error;
    if (variant.cluster == 1) continue;  // of those that share tokens as many fit as of pairs
    const Launch launch(variant, 1, 1, nullptr);
    int clusters = 0;
    error = cudaOccupancyMaxActiveClusters(&clusters, variant.kernel, &launch.config);
    if (error != cudaSuccess) return error;
    int& most = room_of(variant.cluster, *room);
    most = std::min(most, clusters);
  }
  return cudaSuccess;
}

cudaError_t launch_attend(const LayerCall& given, const Spread& spread, cudaStream_t stream) {
  Call call = {given, {}, group_heads(given.heads, spread.groups)};
  for (int scope = 0; scope < kScopes; ++scope) {
    // A scope without tokens has no pages.
    call.page_tokens[scope] = Divisor(std::max(1, given.layer.scopes[scope].shape.page_tokens));
  }
  const Variant& variant = variant_of(spread.cluster, spread.groups, call.group_heads);
  const Launch launch(variant, call.limits.parts, spread.groups, stream);
  return cudaLaunchKernelEx(&launch.config, variant.kernel, call);
}

}  // namespace steady::cuda::sm90
