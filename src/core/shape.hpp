// SPDX-License-Identifier: Apache-2.0
// What callers hand over, checked and with every default filled in; the only forms that backends
// see.
#pragma once

#include <cstdint>
#include <limits>

#include "core/status.hpp"
#include "numeric/host_device.hpp"
#include "steady/steady.h"

namespace steady {

inline constexpr int kHeadDim = STEADY_HEAD_DIM;
inline constexpr int kScopes = 2;  // window, compressed

/// Fixed for the life of an engine.
struct Shape {
  int heads, queries, max_batch, kinds;
  float softmax_scale;
  steady_pool_shape window, compressed[STEADY_MAX_KINDS];

  int max_rows() const { return max_batch * queries; }
  /// The most tokens that a row of this kind may have, and of any.
  int longest_row(int kind) const { return window.max_tokens + compressed[kind].max_tokens; }
  int longest_row() const {
    int longest = 0;
    for (int kind = 0; kind < kinds; ++kind) {
      if (longest_row(kind) > longest) longest = longest_row(kind);
    }
    return longest;
  }
  STEADY_HOST_DEVICE const steady_pool_shape& scope(int kind, int scope_idx) const {
    return scope_idx == 0 ? window : compressed[kind];
  }
};

struct Options {
  steady_backend backend = STEADY_AUTO;
  int device = 0;
  int threads = 0;
  bool checked = false;
};

/// What changes with every step. Row r is query r % queries of request r / queries.
struct Step {
  int batch;
  steady_lengths window, compressed[STEADY_MAX_KINDS];

  STEADY_HOST_DEVICE const steady_lengths& scope(int kind, int scope_idx) const {
    return scope_idx == 0 ? window : compressed[kind];
  }
};

/// Where one cached token lies. `scales` is of use for STEADY_CACHE_FP8 only.
struct Token {
  steady_cache_format format;
  const uint8_t* data;
  const uint8_t* scales;
};

/// A slot that names nothing, and is no mistake.
inline constexpr int32_t kHole = -1;

struct Pool {
  steady_pool_shape shape;
  const uint8_t* pages;
  int64_t page_stride_bytes, page_count;
  const int32_t* slots;
  int64_t slots_stride;

  STEADY_HOST_DEVICE bool has(int32_t slot) const {
    return slot >= 0 && slot < page_count * shape.page_tokens;
  }

  /// Of a slot that it has.
  STEADY_HOST_DEVICE Token token(int32_t slot) const {
    return token(slot, slot / shape.page_tokens);
  }
  /// The same where the slot's page is known. Of another slot, a place that is not to be read.
  STEADY_HOST_DEVICE Token token(int32_t slot, int32_t page_number) const {
    const int32_t in_page = slot - page_number * shape.page_tokens;
    const uint8_t* page = pages + page_number * page_stride_bytes;
    return {shape.format, page + steady_data_offset(shape.format, in_page),
            page + steady_fp8_scales_offset(shape.page_tokens, in_page)};
  }
};

struct Layer {
  int kind, batch;
  const uint16_t* q;
  uint16_t* out;
  float* lse;         // NULL: not wanted
  const float* sink;  // NULL: none
  steady_strides q_strides, out_strides, lse_strides;
  Pool scopes[kScopes];
  bool empty_lse_is_positive = false;

  /// Of a row without tokens.
  STEADY_HOST_DEVICE float empty_lse() const {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    return empty_lse_is_positive ? kInfinity : -kInfinity;
  }
};

/// Whether a caller's struct is there and of the size that this library knows.
template <class T>
Status check_struct(const T* given, const char* name) {
  if (given == nullptr) return invalid(name, " is NULL");
  if (given->struct_size == sizeof(T)) return {};
  return invalid(name, ".struct_size is ", given->struct_size, "; set it to sizeof(", name,
                 ") = ", sizeof(T));
}

Status check_shape(const steady_shape* given, Shape* checked);
Status check_options(const steady_options* given, Options* checked);
Status check_step(const Shape&, const steady_step* given, Step* checked);
Status check_layer(const Shape&, const Step&, const steady_layer* given, Layer* checked);

}  // namespace steady
