// SPDX-License-Identifier: Apache-2.0
// The attend and merge of Hopper cards: the same plan, layer and tokens in, the same answers and
// partials out as cuda/attend.hpp and merge.hpp, attend by blocks that have whole vectors, two of
// which share tokens where heads are two groups, or by pairs, fours and eights of blocks that share
// their values.
#pragma once

#include <cuda_runtime.h>

#include "cuda/attend.hpp"

namespace steady::cuda::sm90 {

/// So many heads are columns of products in pairs of blocks, too, and not in blocks with whole
/// vectors unless rows are short.
inline constexpr int kPairColumns = 16;

/// How many clusters of two, of four and of eight blocks the card holds at once.
struct Room {
  int pairs, fours, eights;
};

/// How attend spreads over the card. A row's bits do not depend on it.
struct Spread {
  int cluster;  ///< blocks that share each vector's values; 1: a block has whole vectors
  int groups;   ///< of heads, of group_heads() each
  int parts;    ///< that plan is to deal
};

/// Heads of a group, the last one's excepted.
inline int group_heads(int heads, int groups) {
  return ((heads + groups - 1) / groups + 7) / 8 * 8;
}

/// A pure function of shape, batch and card: large groups of heads in blocks with whole vectors,
/// unless pairs of blocks do all rows in one round, heads are few and rows are not short, or FP8
/// pages are longer than 2 GiB; then as finely as the card can hold all units at once, in eights as
/// half of those that it holds can. No more parts than units, and so many that equal units come out
/// even where that leaves few idle.
Spread choose_spread(const Shape&, const PlanLimits&, int rows, const Room&);

/// What a block takes of a multiprocessor's shared memory.
size_t shared_bytes(int cluster, int groups, int group_heads);

/// Lets the kernels use the current device's shared memory and tells its room. Once for each
/// device; more often does no harm.
cudaError_t prepare_attend(Room* room);

cudaError_t launch_attend(const LayerCall&, const Spread&, cudaStream_t);

/// Answers of split rows.
cudaError_t launch_merge(const LayerCall&, cudaStream_t);

}  // namespace steady::cuda::sm90
