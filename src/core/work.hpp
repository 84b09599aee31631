// SPDX-License-Identifier: Apache-2.0
// The arrows between plan, attend and merge: each type has one writer, named with it.
#pragma once

#include <cstdint>

#include "numeric/host_device.hpp"
#include "numeric/softmax_state.hpp"

namespace steady {

/// How a backend wants its work cut. Units are the same for all steps and kinds of an engine: a
/// row's bits depend on them.
struct PlanLimits {
  int parts;        ///< workers' shares: CPU tasks or CTAs
  int slots;        ///< partials that attend may leave for merge
  int unit_tokens;  ///< of a unit; a row of no more is one, unless whole_tokens says otherwise
  int max_units;    ///< of a row; longer rows get longer units
  /// The same where every row of several units is split, because they are fewer than the parts: no
  /// part keeps the sums of one then, and the room for them has slots, too. 0: rows are split only
  /// where borders between parts fall.
  int all_slots = 0;
  /// Rows of more tokens have two units at least; from kTileTokens to unit_tokens. 0: unit_tokens.
  int whole_tokens = 0;
};

/// Units are whole multiples of this, so that a tile of tokens never straddles two.
inline constexpr int32_t kTileTokens = 64;

/// A row's tokens, window first, in equal units. The borders depend on that row's own lengths
/// alone, and a unit is never divided: that is why a row's bits do not depend on its neighbours.
struct Units {
  int32_t tokens_each, count;
};

STEADY_HOST_DEVICE inline Units cut_row(int32_t tokens, const PlanLimits& limits) {
  if (tokens < 1)
    return {kTileTokens, 1};  // the empty unit, so that somebody writes the empty answer
  const int32_t whole = limits.whole_tokens > 0 ? limits.whole_tokens : limits.unit_tokens;
  if (tokens <= whole) [[likely]]  // without a division
    return {(tokens + kTileTokens - 1) / kTileTokens * kTileTokens, 1};
  int32_t count = (tokens + limits.unit_tokens - 1) / limits.unit_tokens;
  if (count == 1) count = 2;
  if (count > limits.max_units) count = limits.max_units;
  const int32_t share = (tokens + count - 1) / count;
  const int32_t each = (share + kTileTokens - 1) / kTileTokens * kTileTokens;
  return {each, (tokens + each - 1) / each};
}

/// Written by plan, read by attend and merge: one for each row of the step.
struct RowPlan {
  int32_t
      tokens[2];  ///< lengths of window and compressed scope, clamped; cut_row() tells the units
  int32_t first_slot;  ///< unit u leaves its partial in slot first_slot + u; kWhole: one part has
                       ///< them all and leaves none

  static constexpr int32_t kWhole = -1;
};

struct WorkPosition {
  int32_t row, unit;
};

/// Written by plan, read by attend: units from begin up to but not including end, row after row.
struct PartRange {
  WorkPosition begin, end;
};

/// Written by plan at the head of its tables.
struct PlanHeader {
  uint64_t seal;  ///< tells a plan of this engine from any other bytes
  int32_t batch;
  int32_t split_count;  ///< rows that merge has to finish
  int32_t layer;        ///< decode calls since the plan
};

/// One kind's plan, as it lies in the workspace.
struct PlanTables {
  PlanHeader* header;
  PartRange* parts;     ///< [limits.parts]
  RowPlan* rows;        ///< [max_rows]
  int32_t* split_rows;  ///< [limits.parts]; no more than there are borders between parts
};

/// Written by attend, read by merge: a unit's unfinished answer, in whichever memory it lies.
struct Partial {
  SoftmaxState* states;  ///< [heads]
  float* out;            ///< [heads, 512]
};

/// Written by plan (lengths) and attend or check (slots) of a checked engine.
struct FaultSeen {
  int64_t count;
  int32_t layer, kind, scope, request, query, position, value;  // -1: has no meaning here
};

struct FaultLog {
  FaultSeen negative_length, long_length, stray_slot;
};

}  // namespace steady
