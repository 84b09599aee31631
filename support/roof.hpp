// SPDX-License-Identifier: Apache-2.0
// This machine in, the speeds that no program on it exceeds out, measured in about 0.2 s.
#pragma once

#include <cstdint>

namespace steady::support {

struct Roof {
  int threads = 0;
  double copy_gb_per_s = 0;    ///< of a copy beyond all caches, bytes read plus bytes written
  double fma_gflop_per_s = 0;  ///< of fp32 multiply-adds in registers, widest vectors

  /// The least time that this much work can take.
  double seconds(double flop, double bytes) const;
};

/// The cores that this process may run on.
int usable_cores();

/// With one thread for each usable core.
Roof measure_roof();

/// Runs chains of `rounds` multiply-adds in registers. Returns how many flop that was.
double run_fma_chains(int64_t rounds);

}  // namespace steady::support
