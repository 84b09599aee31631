// SPDX-License-Identifier: Apache-2.0
// Calls on a capturing stream in, a graph that repeats them out.
#pragma once

#include <variant>
#include <vector>

#include "core/backend.hpp"
#include "cpu/engine.hpp"

namespace steady::cpu {

struct PlanCall {
  void* workspace;
  Step step;
};

struct DecodeCall {
  void* workspace;
  Layer layer;
};

using Calls = std::vector<std::variant<PlanCall, DecodeCall>>;

/// What a steady_stream of a CPU engine points to. Calls run at once; a stream exists to be
/// captured.
struct Stream {
  const CpuEngine* engine;
  bool capturing = false;
  Calls calls;
};

inline bool is_capturing(steady_stream stream) {
  return stream != nullptr && static_cast<Stream*>(stream)->capturing;
}

}  // namespace steady::cpu
