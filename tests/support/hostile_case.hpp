// SPDX-License-Identifier: Apache-2.0
// A description of a decode step goes in; its inputs come out, legal where the interface makes
// demands and as nasty as it allows everywhere else: NaN in all bytes that no slot names, wild
// slots past the lengths and in the gaps of loose strides, NaN queries in rows without tokens,
// sentinels around the outputs, pointers aligned no better than their element type.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "steady/steady.h"
#include "tests/support/compare.hpp"
#include "tests/support/layout.hpp"
#include "tests/support/memory.hpp"
#include "tests/support/random.hpp"
#include "tests/support/reference.hpp"

namespace steady::test {

// Memory that begins one element (or `offset_bytes`) behind an aligned address and ends with its
// last element, where a sanitizer sees the edge.
template <typename T>
class OddBuffer {
 public:
  OddBuffer() = default;
  explicit OddBuffer(int64_t count, size_t offset_bytes = sizeof(T))
      : offset_bytes_(offset_bytes), count_(count) {
    const size_t bytes = offset_bytes + static_cast<size_t>(count) * sizeof(T);
    bytes_ = {static_cast<std::byte*>(common_memory().allocate(bytes)), Free{bytes}};
  }

  T* data() const { return reinterpret_cast<T*>(bytes_.get() + offset_bytes_); }
  T& operator[](int64_t idx) const { return data()[idx]; }
  int64_t size() const { return count_; }
  T* begin() const { return data(); }
  T* end() const { return data() + count_; }

 private:
  struct Free {
    size_t bytes = 0;
    void operator()(std::byte* memory) const { common_memory().deallocate(memory, bytes); }
  };

  std::unique_ptr<std::byte, Free> bytes_;
  size_t offset_bytes_ = 0;
  int64_t count_ = 0;
};

constexpr uint16_t kPoisonedQuery = 0xFFFF;  // NaN
constexpr int64_t kMargin = 64;              // sentinels before and behind the outputs

enum class Lengths { kAbsent, kPerRequest, kPerQuery };
enum class Sinks { kAbsent, kFinite, kWithInfinities };

struct ScopeSpec {
  int32_t width = 0;  // 0: there is no such pool
  steady_cache_format format = STEADY_CACHE_FP8;
  int32_t page_tokens = 64;
  Lengths lengths = Lengths::kPerRequest;
  int32_t longest = std::numeric_limits<int32_t>::max();  // of the lengths, if below width
  bool wild_lengths = false;                              // also below 0 and above the width
  int hole_percent = 10;                                  // slots that are -1
  int stray_percent = 0;                                  // slots outside the pool
  int64_t pool_tokens = 0;                                // at least; 0: some more than the width
};

struct CaseSpec {
  int32_t heads = 3;
  int32_t queries = 1;
  int32_t batch = 2;
  int32_t max_batch = 0;  // 0: batch
  float softmax_scale = 0.044194173F;
  ScopeSpec window = {};
  std::vector<ScopeSpec> compressed = {ScopeSpec{}};  // one a kind
  std::vector<int32_t> layers = {0};                  // the kind of each
  Sinks sinks = Sinks::kWithInfinities;
  bool with_lse = true;
  bool loose = true;  // strides with gaps, dimensions in any order
  uint64_t seed = 1;
};

std::string describe(const CaseSpec& spec);

class HostileCase {
 public:
  explicit HostileCase(const CaseSpec& spec);

  const CaseSpec& spec() const { return spec_; }
  const steady_shape& shape() const { return shape_; }

  // Gives all that a step may change (lengths, slots, cache bytes, queries, sinks) other values, in
  // place, and puts the sentinels back.
  void refill(uint64_t seed);
  // The same, for the lengths that are there.
  void refill_contents(uint64_t seed);
  void reset_outputs() const;

  // The requests named, in that order, as a step of their own over the same pages, which must live
  // as long. -1 stands for a request of length 0, if there are lengths.
  HostileCase pick(const std::vector<int64_t>& requests) const;

  Outputs outputs(size_t layer = 0) const;
  Answer answer(size_t layer = 0) const;
  // Nothing but the elements of out and lse has been written.
  testing::AssertionResult gaps_untouched() const;
  testing::AssertionResult outputs_untouched() const;

  // The inputs again, for a test to change.
  int32_t* window_lengths() const { return lengths_[0].data(); }
  int32_t* compressed_lengths(size_t kind = 0) const { return lengths_[1 + kind].data(); }
  int32_t* window_slots(size_t layer = 0) const { return slots(layer, 0); }
  int32_t* compressed_slots(size_t layer = 0) const { return slots(layer, 1); }
  uint16_t* q(size_t layer = 0) const { return memory_[layer].q.data(); }
  float* sinks(size_t layer = 0) const { return memory_[layer].sink.data(); }

  steady_step step = {};
  std::vector<steady_layer> layers;

 private:
  struct PoolMemory {
    OddBuffer<uint8_t> pages;
    OddBuffer<int32_t> slots;
  };
  struct LayerMemory {
    PoolMemory scopes[2];
    OddBuffer<uint16_t> q, out;
    OddBuffer<float> sink, lse;
  };

  int32_t* slots(size_t layer, int scope) const {
    return memory_[layer].scopes[scope].slots.data();
  }
  const ScopeSpec& scope_spec(size_t layer, int scope) const;
  steady_pool_shape scope_shape(size_t layer, int scope) const;
  int64_t row_length(size_t layer, int scope, int64_t row) const;
  int64_t rows() const { return int64_t{spec_.batch} * spec_.queries; }
  Extents extents() const { return {spec_.batch, spec_.queries, spec_.heads}; }

  void make_lengths();
  void make_layer(size_t layer, Random& random);
  steady_pool make_pool(size_t layer, int scope, Random& random);
  void fill_lengths(Random& random);
  void fill_pool(size_t layer, int scope, Random& random, std::vector<bool>& has_tokens);
  void fill_queries(size_t layer, Random& random, const std::vector<bool>& has_tokens);
  void take_pool(const HostileCase& from, size_t layer, int scope,
                 const std::vector<int64_t>& requests);
  void take_queries(const HostileCase& from, size_t layer, const std::vector<int64_t>& requests);
  testing::AssertionResult untouched_but(bool for_outputs) const;

  CaseSpec spec_;
  steady_shape shape_ = {};
  std::vector<OddBuffer<int32_t>> lengths_;  // of the window, then of each kind
  std::vector<LayerMemory> memory_;
};

// Where the token in `slot` keeps its data and its scales.
uint8_t* token_data(const steady_pool_shape& shape, const steady_pool& pool, int64_t slot);
uint8_t* token_scales(const steady_pool_shape& shape, const steady_pool& pool, int64_t slot);

// Gives the token in `slot` ordinary values: around 1, no NaN.
void fill_token(const steady_pool_shape& shape, const steady_pool& pool, int64_t slot,
                Random& random);

}  // namespace steady::test
