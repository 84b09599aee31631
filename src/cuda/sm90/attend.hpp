// SPDX-License-Identifier: Apache-2.0
// The attend of Hopper cards: the same plan, layer and tokens in, the same answers and partials out
// as cuda/attend.hpp, by blocks of specialised warpgroups.
#pragma once

#include <cuda_runtime.h>

#include "cuda/attend.hpp"
#include "numeric/host_device.hpp"

namespace steady::cuda::sm90 {

/// How attend spreads over the card. A row's bits do not depend on it.
struct Spread {
  int groups;  ///< of heads, of group_heads() each; 0: none
  int parts;   ///< that plan is to deal
};

/// Heads of a group, the last one's excepted.
STEADY_HOST_DEVICE inline int group_heads(int heads, int groups) {
  return ((heads + groups - 1) / groups + 7) / 8 * 8;
}

/// A pure function of shape, batch and card: few and large groups where there is work for all
/// multiprocessors; else as finely as the card can hold at once.
Spread choose_spread(const Shape&, const PlanLimits&, int rows, int multiprocessors);

/// What a block takes of a multiprocessor's shared memory.
size_t shared_bytes();

/// Lets the kernels use the current device's shared memory. Once for each device; more often does
/// no harm.
cudaError_t prepare_attend();

cudaError_t launch_attend(const LayerCall&, const Spread&, cudaStream_t);

}  // namespace steady::cuda::sm90
