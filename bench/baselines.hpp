// SPDX-License-Identifier: Apache-2.0
// A layer in, its answer computed the obvious way out: what the library is measured against.
#pragma once

#include <memory>
#include <string>

#include "steady/steady.h"

namespace steady::bench {

/// Two products by BLAS for each row. Rows are spread over the threads; where there are fewer rows
/// than threads, BLAS has all threads for one row after the other.
class Baselines {
 public:
  virtual ~Baselines() = default;

  /// Gathers and de-quantises a row's tokens, multiplies, softens, multiplies, writes layer.out.
  /// Takes full lengths and no stray slots.
  virtual void attend(const steady_layer& layer) = 0;
  /// The same products of what attend() left behind, and nothing else.
  virtual void multiply() = 0;
};

/// NULL in a build without BLAS.
std::unique_ptr<Baselines> make_baselines(const steady_shape& shape, int threads);

/// Which BLAS, or why there is none.
std::string describe_baselines();

}  // namespace steady::bench
