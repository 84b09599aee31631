// SPDX-License-Identifier: Apache-2.0
// A run of a row's positions in, the cached tokens that its slots name out; what names none is
// skipped.
#pragma once

#include "core/faults.hpp"
#include "core/shape.hpp"
#include "core/work.hpp"

namespace steady::cpu {

/// Walks the positions begin … end - 1 of a row, the window's first. Reads slots inside the row's
/// lengths and no other, and hands out tokens inside the pools and no other.
class TokenCursor {
 public:
  /// `faults` is NULL in an unchecked engine.
  TokenCursor(const Shape& shape, const Layer& layer, int32_t layer_idx, int32_t row,
              const RowPlan& plan, int32_t begin, int32_t end, FaultLog* faults)
      : shape_(shape),
        layer_(layer),
        layer_idx_(layer_idx),
        row_(row),
        window_(plan.tokens[0]),
        position_(begin),
        end_(end),
        faults_(faults) {}

  /// The next token, or false after the last.
  bool next(Token* token) {
    while (position_ < end_) {
      const int scope = position_ < window_ ? 0 : 1;
      const int32_t in_scope = scope == 0 ? position_ : position_ - window_;
      ++position_;
      const Pool& pool = layer_.scopes[scope];
      const int32_t slot = pool.slots[row_ * pool.slots_stride + in_scope];
      if (pool.has(slot)) {
        *token = pool.token(slot);
        return true;
      }
      if (faults_ != nullptr && slot != kHole) log_stray(scope, in_scope, slot);
    }
    return false;
  }

 private:
  void log_stray(int scope, int32_t position, int32_t slot) {
    add({1, layer_idx_, layer_.kind, scope, row_ / shape_.queries, row_ % shape_.queries, position,
         slot},
        &faults_->stray_slot);
  }

  const Shape& shape_;
  const Layer& layer_;
  int32_t layer_idx_, row_, window_, position_, end_;
  FaultLog* faults_;
};

/// Vectors of the row that a worker is at.
inline const uint16_t* query_vector(const Shape& shape, const Layer& layer, int row, int head) {
  const steady_strides& s = layer.q_strides;
  return layer.q + row / shape.queries * s.batch + row % shape.queries * s.query + head * s.head;
}

inline uint16_t* out_vector(const Shape& shape, const Layer& layer, int row, int head) {
  const steady_strides& s = layer.out_strides;
  return layer.out + row / shape.queries * s.batch + row % shape.queries * s.query + head * s.head;
}

inline void write_lse(const Shape& shape, const Layer& layer, int row, int head, float lse) {
  if (layer.lse == nullptr) return;
  const steady_strides& s = layer.lse_strides;
  layer.lse[row / shape.queries * s.batch + row % shape.queries * s.query + head * s.head] = lse;
}

}  // namespace steady::cpu
