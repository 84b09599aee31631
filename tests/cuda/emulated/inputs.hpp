// SPDX-License-Identifier: Apache-2.0
// A small call with all that its tensors may have, for the emulated kernels.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <type_traits>
#include <vector>

#include "core/shape.hpp"
#include "numeric/bf16.hpp"
#include "steady/cache_format.h"
#include "steady/device.h"
#include "steady/steady.h"

namespace steady::cuda {

inline constexpr int kRows = 3;  // with tokens in both scopes, without any, with fewer

/// A shape and its tensors: NaN in all bytes that no slot names, holes and strays among the slots.
class Inputs {
 public:
  Inputs(int heads, int window, int compressed, steady_cache_format format, int offset_bytes = 0,
         float softmax_scale = 0.05f)
      : shape_{heads, 1, kRows, 1, softmax_scale, {STEADY_CACHE_FP8, 5, window}, {}},
        q_(size_t{kRows} * heads * kHeadDim),
        sinks_(heads) {
    shape_.compressed[0] = {format, 7, compressed};
    std::normal_distribution<float> normal;
    for (uint16_t& value : q_) value = bf16_from_float(normal(random_));
    for (float& sink : sinks_) sink = normal(random_);
    for (int scope = 0; scope < kScopes; ++scope) make_pool(scope, offset_bytes);
    lengths_[0] = {window, 0, window / 2};
    lengths_[1] = {compressed - compressed / 8, 0, compressed / 3};
  }

  const Shape& shape() const { return shape_; }
  Step step() const {
    Step step = {kRows / shape_.queries, {lengths_[0].data(), 1}, {}};
    step.compressed[0] = {lengths_[1].data(), 1};
    return step;
  }

  /// Where the first token of a row's window, or from position `from` on, lies that a slot names.
  uint8_t* first_token(int row, bool scales, int from = 0) {
    const Pool& pool = pools_[0];
    const int32_t* slot = pool.slots + row * pool.slots_stride + from;
    while (!pool.has(*slot)) ++slot;
    const Token token = pool.token(*slot);
    return const_cast<uint8_t*>(scales ? token.scales : token.data);
  }
  /// Leaves row 0 a token in each of the window's first two tiles of 64, and no others.
  void leave_two_tokens() {
    int32_t* const window = slots_[0].data();
    const std::vector<int32_t> left = first_named(2);
    for (int scope = 0; scope < kScopes; ++scope)
      std::fill_n(slots_[scope].begin(), pools_[scope].slots_stride, -1);
    window[40] = left[0];
    window[100] = left[1];
  }
  /// Leaves row 0's window tiles of one token each, another one in every tile of 64; but in the
  /// third a token of the second's stands between those of the first's.
  void repeat_tokens() {
    int32_t* const window = slots_[0].data();
    const std::vector<int32_t> found = first_named(4);
    for (int i = 0; i < shape_.window.max_tokens; ++i)
      window[i] = i / 64 == 2 ? found[i % 64 == 20 ? 1 : 0] : found[i / 64 % 4];
  }
  /// As memory may be before a layer's inputs are written, with a plan for them: NaN and holes.
  void hide() {
    for (auto& slots : slots_) hide(&slots, -1);
    for (auto& bytes : bytes_) hide(&bytes, 0xff);
    hide(&q_, 0x7fc0);
    hide(&sinks_, NAN);
  }
  /// As they were.
  void reveal() {
    for (const auto& restore : hidden_) restore();
    hidden_.clear();
  }
  /// Makes the rows queries of one request, which were one of a request each.
  void make_one_request() {
    shape_.queries = kRows;
    shape_.max_batch = 1;
  }
  /// Moves queries to where no sixteen bytes can be read at once.
  void move_queries() {
    q_.insert(q_.begin(), 0x7fc0);
    q_offset_ = 1;
  }
  Layer layer(uint16_t* out, float* lse) const {
    const int64_t head = kHeadDim, row = head * shape_.heads;
    const bool together = shape_.queries > 1;
    constexpr int64_t kNowhere = int64_t{1} << 44;  // of requests or queries of which there is one
    const steady_strides vectors = {together ? kNowhere : row, together ? row : kNowhere, head};
    const steady_strides numbers = {vectors.batch / head, vectors.query / head, 1};
    return {0,
            kRows / shape_.queries,
            q_.data() + q_offset_,
            out,
            lse,
            sinks_.data(),
            vectors,
            vectors,
            numbers,
            {pools_[0], pools_[1]}};
  }

 private:
  /// The first so many slots of row 0's window that name a token.
  std::vector<int32_t> first_named(size_t count) const {
    std::vector<int32_t> found;
    for (const int32_t* slot = slots_[0].data(); found.size() < count; ++slot) {
      if (pools_[0].has(*slot)) found.push_back(*slot);
    }
    return found;
  }

  template <class T>
  void hide(std::vector<T>* values, std::type_identity_t<T> by) {
    hidden_.push_back([values, kept = *values] { std::ranges::copy(kept, values->begin()); });
    std::ranges::fill(*values, by);
  }

  void make_pool(int scope, int offset_bytes) {
    const steady_pool_shape& shape = shape_.scope(0, scope);
    const int64_t stride = steady_page_bytes(shape.format, shape.page_tokens) + offset_bytes;
    const int pages = shape.max_tokens / shape.page_tokens + 1;
    const auto tokens = static_cast<int32_t>(pages * shape.page_tokens);
    constexpr size_t kAlignment = 64;
    bytes_[scope].assign(pages * stride + kAlignment, 0xff);
    uint8_t* begin = bytes_[scope].data();
    begin += -reinterpret_cast<uintptr_t>(begin) % kAlignment;
    slots_[scope].resize(size_t{kRows} * shape.max_tokens);
    std::normal_distribution<float> normal;
    for (int32_t& slot : slots_[scope]) {
      const int32_t token = static_cast<int32_t>(random_() % tokens);
      slot = random_() % 9 == 0 ? -1 : random_() % 9 == 0 ? tokens + token : token;
      if (slot != token) continue;
      float values[kHeadDim];
      for (float& value : values) value = normal(random_);
      EXPECT_EQ(steady_pack_token(shape.format, values, begin + token / shape.page_tokens * stride,
                                  shape.page_tokens, token % shape.page_tokens),
                STEADY_OK);
    }
    pools_[scope] = {shape, begin, stride, pages, slots_[scope].data(), shape.max_tokens};
  }

  std::mt19937 random_{11};
  Shape shape_;
  std::vector<uint16_t> q_;
  int q_offset_ = 0;
  std::vector<float> sinks_;
  std::vector<uint8_t> bytes_[kScopes];
  std::vector<int32_t> slots_[kScopes], lengths_[kScopes];
  Pool pools_[kScopes] = {};
  std::vector<std::function<void()>> hidden_;
};

}  // namespace steady::cuda
