// SPDX-License-Identifier: Apache-2.0
// A layer in, its answer computed the obvious way out: what the library is measured against.
#pragma once

#include <memory>
#include <string>

#include "steady/steady.h"

namespace steady::bench {

/// A row's tokens are gathered and de-quantised to fp32, and BLAS does the two products of the row.
class Baselines {
 public:
  virtual ~Baselines() = default;

  /// The obvious way: row after row, plain loops, the products on all threads. Writes layer.out.
  /// Takes full lengths and no stray slots, as do the others.
  virtual void gather(const steady_layer& layer) = 0;
  /// The same with vectorised loops, the rows spread over the threads. Where there are fewer rows
  /// than threads, the products are on all threads.
  virtual void gather_tuned(const steady_layer& layer) = 0;
  /// The products of what gather_tuned() left behind, dealt in the same way, and nothing else.
  virtual void multiply() = 0;
};

/// NULL in a build without BLAS.
std::unique_ptr<Baselines> make_baselines(const steady_shape& shape, int threads);

/// Which BLAS, or why there is none.
std::string describe_baselines();

}  // namespace steady::bench
