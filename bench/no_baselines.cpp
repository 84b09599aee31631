// SPDX-License-Identifier: Apache-2.0
// Nothing in, no baselines out: for a build without BLAS.
#include "bench/baselines.hpp"

namespace steady::bench {

std::unique_ptr<Baselines> make_baselines(const steady_shape&, int) { return nullptr; }

std::string describe_baselines() {
  return "no baselines: OpenBLAS was not found when this was built";
}

}  // namespace steady::bench
