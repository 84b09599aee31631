// SPDX-License-Identifier: Apache-2.0
// The oracle's merge: partials of one row in the order of its units in, the answer out.
#include "cpu/merge.hpp"

#include <limits>

#include "cpu/attend.hpp"
#include "numeric/bf16.hpp"
#include "numeric/softmax_state.hpp"

namespace steady::cpu {

const Kernels kOracleKernels = {attend_scratch_bytes, attend, merge, finish};

void merge(const Partial& left, const Partial& right, int head) {
  const Merged merged = steady::merge(left.states[head], right.states[head]);
  left.states[head] = merged.state;
  float* out = left.out + head * kHeadDim;
  const float* more = right.out + head * kHeadDim;
  for (int d = 0; d < kHeadDim; ++d) {
    out[d] = out[d] * merged.left_weight + more[d] * merged.right_weight;
  }
}

void finish(const Shape& shape, const Layer& layer, int row, int head, const Partial& partial) {
  const float sink =
      layer.sink != nullptr ? layer.sink[head] : -std::numeric_limits<float>::infinity();
  const Finished finished = steady::finish(partial.states[head], sink, layer.empty_lse());
  uint16_t* out = out_vector(shape, layer, row, head);
  const float* unfinished = partial.out + head * kHeadDim;
  for (int d = 0; d < kHeadDim; ++d) out[d] = bf16_from_float(unfinished[d] * finished.out_weight);
  write_lse(shape, layer, row, head, finished.lse);
}

}  // namespace steady::cpu
