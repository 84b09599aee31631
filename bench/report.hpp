// SPDX-License-Identifier: Apache-2.0
// Results of cases in, a table or JSON lines on standard output out.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "bench/contest.hpp"
#include "bench/inputs.hpp"
#include "bench/nodes.hpp"
#include "support/roof.hpp"

namespace steady::bench {

/// What runs where, in all cases alike.
struct Setting {
  steady_backend_info backend;
  int threads;
  int layers;  ///< of a captured step
  support::Roof roof;
};

struct Result {
  Case sizes;
  double flop, unique_bytes;  ///< of a layer, the mean of a step
  double oracle_error;        ///< ‖a−b‖/‖b‖ of the first request
  double baseline_error;      ///< the worst against a baseline; without baselines 0
  Timing steady;
  std::vector<Timing> baselines;
  std::vector<Node> nodes;  ///< of a traced step; empty if none was
};

std::string case_text(const Case& sizes);

void print_json_line(const Setting& setting, const Result& result, std::ostream& out);
void print_table(const Setting& setting, const std::vector<Result>& results);

}  // namespace steady::bench
