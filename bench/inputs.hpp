// SPDX-License-Identifier: Apache-2.0
// The sizes of a case in, sets of random inputs that take turns out.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "steady/steady.hpp"

namespace steady::bench {

struct Case {
  int heads, batch, queries, window, compressed;

  int rows() const { return batch * queries; }
  int tokens() const { return window + compressed; }  ///< of a row
  double flop() const { return 2.0 * rows() * heads * tokens() * 2 * STEADY_HEAD_DIM; }
  size_t vector_values() const { return size_t{1} * rows() * heads * STEADY_HEAD_DIM; }  ///< of q
  steady_shape shape() const;
};

/// One pool for each set: twice as many tokens a request as a row selects, of which each row
/// selects some at random.
class Scope {
 public:
  Scope(const Engine& engine, const steady_pool_shape& shape, const Case& sizes, int sets,
        std::mt19937* random);

  steady_pool pool(int set) const;
  /// Distinct tokens that the first set's rows select; each request has its own.
  int64_t unique_tokens() const { return unique_tokens_; }

 private:
  void fill_pages(int sets, std::mt19937* random);
  void fill_slots(const Case& sizes, int sets, std::mt19937* random);

  steady_pool_shape shape_;
  int64_t request_tokens_, page_count_, page_stride_bytes_, slots_a_set_;
  int64_t unique_tokens_ = 0;
  DeviceArray<uint8_t> pages_;
  DeviceArray<int32_t> slots_;
};

/// The backends of this build compute in the host's memory, so that all of it is written in place.
class Inputs {
 public:
  Inputs(const Engine& engine, const Case& sizes);

  /// More than twice the last cache together, as long as that stays within reason.
  int sets() const { return sets_; }
  /// `out` is one for all sets.
  steady_layer layer(int set, uint16_t* out) const;
  /// Bytes of cached tokens that one set's rows read, each counted once.
  double unique_bytes() const;

 private:
  Case sizes_;
  int sets_;
  std::mt19937 random_;  ///< seeded alike in each run
  Scope window_, compressed_;
  DeviceArray<uint16_t> q_;
  std::vector<float> sinks_;
};

}  // namespace steady::bench
