// SPDX-License-Identifier: Apache-2.0
// A processor in, the speeds that no program on it exceeds out, measured in less than a second.
#pragma once

#include <cstdint>
#include <string>

#include "steady/steady.h"

namespace steady::support {

struct Roof {
  double copy_gb_per_s = 0;        ///< of a copy beyond all caches, bytes read plus bytes written
  double product_gflop_per_s = 0;  ///< of products; infinite where none could be measured
  std::string products;            ///< which ones: "fp32 FMA on 2 threads"

  /// The least time that this much work can take.
  double seconds(double flop, double bytes) const;
};

/// The cores that this process may run on.
int usable_cores();

/// Of what `backend` computes on: one thread for each usable core, or CUDA device 0. Throws
/// std::runtime_error where a device fails.
Roof measure_roof(steady_backend backend);

/// Runs chains of `rounds` multiply-adds in registers. Returns how many flop that was.
double run_fma_chains(int64_t rounds);

}  // namespace steady::support
