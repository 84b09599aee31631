// SPDX-License-Identifier: Apache-2.0
// A recorded call and the number of a step in, what that step's layers read out.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "support/recorded_call.hpp"

namespace steady::cli {

struct ScopeInputs {
  std::vector<int32_t> slots;    ///< [batch, queries, width]
  std::vector<int32_t> lengths;  ///< [batch]
};

/// How often a checked engine must find something to report.
struct FaultCounts {
  int64_t negative_lengths = 0, long_lengths = 0, stray_slots = 0;
};

struct StepInputs {
  std::array<ScopeInputs, 2> scopes;  ///< window, compressed
  std::vector<uint16_t> q;            ///< [layers, batch, queries, heads, 512]
  FaultCounts faults;                 ///< stray slots counted for one layer
  double layer_flop = 0;              ///< that the answer of one layer needs
  double layer_unique_bytes = 0;      ///< of cache that one layer reads, each token once
};

/// Step 0 is the recorded call for every layer. Any later step is a variation that depends on its
/// number alone: lengths from 0 to the full width, slots shuffled and some of them -1, queries
/// turned and each layer's different. A slot never names a token that the recorded call did not
/// read, for nobody knows what lies there.
class StepVariations {
 public:
  /// `hostile`: every third step also has lengths and slots that no caller should pass.
  StepVariations(const support::RecordedCall& call, int layers, bool hostile);

  void make(int step, StepInputs* inputs) const;

 private:
  const support::RecordedCall& call_;
  int layers_;
  bool hostile_;
  std::array<std::vector<int32_t>, 2> readable_;  ///< slots of each scope
};

}  // namespace steady::cli
