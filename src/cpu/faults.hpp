// SPDX-License-Identifier: Apache-2.0
// Bad lengths and slots in, their count and first place out.
#pragma once

#include <tuple>

#include "core/work.hpp"

namespace steady::cpu {

/// In the order of layers, rows, scopes, positions; a length (layer -1) before any slot.
inline bool comes_before(const FaultSeen& a, const FaultSeen& b) {
  return std::tie(a.layer, a.request, a.query, a.scope, a.kind, a.position) <
         std::tie(b.layer, b.request, b.query, b.scope, b.kind, b.position);
}

/// Adds `more`, which may have been seen many times, to `seen`. The order of additions does not
/// matter.
inline void add(const FaultSeen& more, FaultSeen* seen) {
  if (more.count == 0) return;
  const int64_t count = seen->count + more.count;
  if (seen->count == 0 || comes_before(more, *seen)) *seen = more;
  seen->count = count;
}

inline void add(const FaultLog& more, FaultLog* log) {
  add(more.negative_length, &log->negative_length);
  add(more.long_length, &log->long_length);
  add(more.stray_slot, &log->stray_slot);
}

}  // namespace steady::cpu
