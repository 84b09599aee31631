// SPDX-License-Identifier: Apache-2.0
// A plan, a layer and cached tokens in; answers of whole rows, partials of split rows out.
#pragma once

#include <cuda_runtime.h>

#include "core/shape.hpp"
#include "core/work.hpp"
#include "cuda/divisor.hpp"
#include "cuda/memory.hpp"

namespace steady::cuda {

/// What attend, merge and check kernels are told, by value.
struct LayerCall {
  int heads;
  Divisor queries;  ///< of a request; divides rows into requests
  float softmax_scale;
  uint64_t seal;
  PlanLimits limits;
  Layer layer;
  Tables tables;
};

/// Heads that one CTA does together, and what its shared memory must hold.
struct AttendChoice {
  int heads;
  size_t shared_bytes;
  int raw_bytes;  ///< of a token, before it is de-quantised
};

/// A pure function of shape and card: as many heads together as the card's shared memory holds,
/// since each group of heads de-quantises the tokens again; fewer where there are too few rows for
/// all multiprocessors. The bits of a head do not depend on it. `heads` is 0 if not even the
/// smallest group fits.
AttendChoice choose_attend(const Shape&, int rows, int multiprocessors, size_t shared_bytes_limit);

/// Lets the kernels use the card's shared memory. Once for each device; more often does no harm.
cudaError_t prepare_attend(size_t shared_bytes_limit);

cudaError_t launch_attend(const LayerCall&, const AttendChoice&, cudaStream_t);

}  // namespace steady::cuda
