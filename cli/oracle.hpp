// SPDX-License-Identifier: Apache-2.0
// The inputs of one layer in, the specification's answer out.
#pragma once

#include <cstdint>
#include <vector>

#include "cli/step_inputs.hpp"
#include "steady/steady.hpp"

namespace steady::cli {

struct OracleAnswer {
  std::vector<uint16_t> out;
  std::vector<float> lse;
};

/// Computes on host memory, as every CPU backend can.
class Oracle {
 public:
  explicit Oracle(const support::RecordedCall& call);
  const OracleAnswer& answer(const StepInputs& inputs, int layer);

 private:
  const support::RecordedCall& call_;
  Engine engine_;
  Workspace workspace_;
  OracleAnswer answer_;
};

}  // namespace steady::cli
