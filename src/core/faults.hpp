// SPDX-License-Identifier: Apache-2.0
// Bad lengths and slots in, their count and first place out.
#pragma once

#include "core/work.hpp"
#include "numeric/host_device.hpp"
#include "steady/steady.h"

namespace steady {

/// In the order of layers, rows, scopes, positions; a length (layer -1) before any slot.
STEADY_HOST_DEVICE inline bool comes_before(const FaultSeen& a, const FaultSeen& b) {
  if (a.layer != b.layer) return a.layer < b.layer;
  if (a.request != b.request) return a.request < b.request;
  if (a.query != b.query) return a.query < b.query;
  if (a.scope != b.scope) return a.scope < b.scope;
  if (a.kind != b.kind) return a.kind < b.kind;
  return a.position < b.position;
}

/// Both together: their count, and the place of the first. The order of additions does not matter.
STEADY_HOST_DEVICE inline FaultSeen joined(const FaultSeen& a, const FaultSeen& b) {
  if (a.count == 0) return b;
  if (b.count == 0) return a;
  FaultSeen both = comes_before(b, a) ? b : a;
  both.count = a.count + b.count;
  return both;
}

STEADY_HOST_DEVICE inline void add(const FaultSeen& more, FaultSeen* seen) {
  *seen = joined(*seen, more);
}

inline void add(const FaultLog& more, FaultLog* log) {
  add(more.negative_length, &log->negative_length);
  add(more.long_length, &log->long_length);
  add(more.stray_slot, &log->stray_slot);
}

/// The form that callers see; nothing seen has no place.
inline steady_fault public_fault(const FaultSeen& seen) {
  if (seen.count == 0) return {0, -1, -1, -1, -1, -1, -1, -1};
  return {seen.count,   seen.layer, seen.kind,     seen.scope,
          seen.request, seen.query, seen.position, seen.value};
}

inline void write_report(const FaultLog& log, steady_report* report) {
  report->negative_length = public_fault(log.negative_length);
  report->long_length = public_fault(log.long_length);
  report->stray_slot = public_fault(log.stray_slot);
}

}  // namespace steady
