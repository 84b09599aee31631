// SPDX-License-Identifier: Apache-2.0
// Strides go in, the elements that they name come out, in the order of [batch, queries, heads].
#pragma once

#include <cstdint>

#include "steady/steady.h"

namespace steady::test {

struct Extents {
  int64_t batch, queries, heads;
};

// The strides that "all 0" stands for.
inline steady_strides contiguous(const Extents& extents, int64_t inner) {
  return {extents.queries * extents.heads * inner, extents.heads * inner, inner};
}

inline steady_strides resolved(const steady_strides& strides, const Extents& extents,
                               int64_t inner) {
  const bool absent = strides.batch == 0 && strides.query == 0 && strides.head == 0;
  return absent ? contiguous(extents, inner) : strides;
}

// Calls visit(element) with the first element of each vector of `inner` elements.
template <typename Visit>
void for_each_vector(const Extents& extents, const steady_strides& strides, int64_t inner,
                     Visit visit) {
  const steady_strides s = resolved(strides, extents, inner);
  for (int64_t b = 0; b < extents.batch; ++b)
    for (int64_t q = 0; q < extents.queries; ++q)
      for (int64_t h = 0; h < extents.heads; ++h) visit(b * s.batch + q * s.query + h * s.head);
}

}  // namespace steady::test
