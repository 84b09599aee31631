// SPDX-License-Identifier: Apache-2.0
// One worker's scratch bytes in, the fast attend's tile and queries out.
#pragma once

#include <cstddef>

#include "core/shape.hpp"
#include "core/work.hpp"
#include "core/workspace.hpp"

namespace steady::cpu {

/// Floats from one vector to the next. Not a power of two, or the vectors that a product reads
/// together would share a few sets of the L1 cache.
inline constexpr int kVectorStride = kHeadDim + 16;

/// De-quantised tokens, keys and values alike.
struct Tile {
  float* values;  ///< [kTileTokens, kVectorStride]
  int tokens;
};

struct Scratch {
  float* tile;  ///< [kTileTokens, kVectorStride]
  float* q;     ///< [heads, kVectorStride]
  size_t bytes;
};

inline Scratch scratch_in(const Shape& shape, std::byte* memory) {
  WorkspaceLayout layout;
  const size_t tile = layout.add<float>(static_cast<size_t>(kTileTokens) * kVectorStride);
  const size_t q = layout.add<float>(static_cast<size_t>(shape.heads) * kVectorStride);
  return {reinterpret_cast<float*>(memory + tile), reinterpret_cast<float*>(memory + q),
          layout.bytes()};
}

}  // namespace steady::cpu
