// SPDX-License-Identifier: Apache-2.0
// The attend of Hopper cards: the same plan, layer and tokens in, the same answers and partials out
// as cuda/attend.hpp, by warpgroups with roles of their own.
#pragma once

#include <cuda_runtime.h>

#include "cuda/attend.hpp"

namespace steady::cuda::sm90 {

/// Heads that one block does together, 8 to 64; a pure function of shape and card. As many as there
/// are, since each group of heads de-quantises the tokens again; fewer where there are too few rows
/// for all multiprocessors. The bits of a head do not depend on it.
int choose_heads(const Shape&, int rows, int multiprocessors);

/// What a block of so many heads takes of a multiprocessor's shared memory.
size_t shared_bytes(int heads);

/// Lets the kernels use the card's shared memory. Once for each device; more often does no harm.
cudaError_t prepare_attend();

/// `heads` as chosen.
cudaError_t launch_attend(const LayerCall&, int heads, cudaStream_t);

}  // namespace steady::cuda::sm90
