// SPDX-License-Identifier: Apache-2.0
// A recorded call in, what became of its step when captured once and replayed many times out.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "steady/steady.h"
#include "support/alloc_counter.hpp"
#include "support/recorded_call.hpp"
#include "support/roof.hpp"

namespace steady::cli {

struct ReplaySettings {
  steady_backend backend = STEADY_AUTO;
  int layers = 61;
  int steps = 32;
  int threads = 0;
  bool checked = false;
};

/// One sort of fault over all steps, as the checked engine reported it.
struct FaultTally {
  int64_t count = 0;
  int first_step = -1;
  steady_fault first = {};
};

struct ReplayResult {
  std::string file;
  std::string refusal;                ///< why nothing ran, or empty
  std::vector<std::string> failures;  ///< one sentence for each check that failed
  steady_shape shape = {};
  bool finished = false;  ///< the rest means something

  double step_us = 0, layer_us = 0;  ///< medians of the replays
  double cache_gb_per_s = 0;         ///< median; unique cache bytes of each layer
  double roof_percent = 0;           ///< median
  double worst_out_error = 0, worst_lse_error = 0;
  int64_t addresses_moved = 0;
  support::AllocationCount allocations;  ///< during the replays
  bool replay_equals_eager = true;
  FaultTally negative_length, long_length, stray_slot;

  bool passed() const { return finished && failures.empty(); }
};

/// `on_step` hears the number of each step before it runs. Throws steady::Error where the library
/// refuses the job.
void replay_call(const support::RecordedCall& call, const ReplaySettings& settings,
                 const support::Roof& roof, const std::function<void(int)>& on_step,
                 ReplayResult* result);

}  // namespace steady::cli
