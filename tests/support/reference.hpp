// SPDX-License-Identifier: Apache-2.0
// One layer's inputs, as the C interface takes them, go in; its answer in float64 comes out. Shares
// no line with the library, so that the oracle has a judge of its own.
#pragma once

#include <cstdint>
#include <vector>

#include "steady/steady.h"

namespace steady::test {

struct Answer {
  std::vector<double> out;  // [batch, queries, heads, 512]
  std::vector<double> lse;  // [batch, queries, heads]
};

Answer reference_answer(const steady_shape& shape, const steady_step& step,
                        const steady_layer& layer);

// The 512 values of the token in `slot` of a pool.
std::vector<double> token_values(const steady_pool_shape& shape, const steady_pool& pool,
                                 int64_t slot);

}  // namespace steady::test
