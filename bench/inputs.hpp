// SPDX-License-Identifier: Apache-2.0
// The sizes of a case in, sets of random inputs that take turns out.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "steady/steady.hpp"

namespace steady::bench {

/// One kind of layer, or the three of the model: window and 4:1 scope in pages of 64 tokens; window
/// alone; window and 128:1 scope in pages of 2.
struct Case {
  int heads, batch, queries, window, compressed, kinds;
  bool ragged;  ///< whether requests have lengths of their own, up to those

  int rows() const { return batch * queries; }
  int tokens(int kind) const {
    return window + (kind == kWindowAlone ? 0 : compressed);
  }  ///< of a row, at most
  size_t vector_values() const { return size_t{1} * rows() * heads * STEADY_HEAD_DIM; }  ///< of q
  steady_shape shape() const;

  static constexpr int kWindowAlone = 1;
};

/// Twice as many tokens a request as a row can select, of which each row selects some at random;
/// on the host, and on the device as often as there are sets: equal bytes at other addresses.
class Scope {
 public:
  /// `lengths`: of each request, how many tokens its rows select.
  Scope(const Engine& engine, const steady_pool_shape& shape, const Case& sizes,
        const int32_t* lengths, int sets, std::mt19937* random);

  steady_pool pool(int set) const;
  steady_pool host_pool() const;
  /// Distinct tokens that the rows select; each request has its own.
  int64_t unique_tokens() const { return unique_tokens_; }

 private:
  void fill_pages(std::mt19937* random);
  void fill_slots(const Case& sizes, const int32_t* lengths, std::mt19937* random);

  steady_pool_shape shape_;
  int64_t request_tokens_, page_count_, page_stride_bytes_;
  int64_t unique_tokens_ = 0;
  std::vector<uint8_t> host_pages_;
  std::vector<int32_t> host_slots_;
  DeviceArray<uint8_t> pages_;
  DeviceArray<int32_t> slots_;
};

class Inputs {
 public:
  /// `rotation_bytes`: what all sets should hold at least, as far as that stays within reason.
  Inputs(const Engine& engine, const Case& sizes, int64_t rotation_bytes);

  int sets() const { return sets_; }
  /// All requests, with lengths in device memory.
  steady_step step() const { return step_with(lengths_.data()); }
  /// The same in the memory of the host.
  steady_step host_step() const { return step_with(host_lengths_.data()); }
  /// In device memory. `out` is one for all sets, which have one answer.
  steady_layer layer(int set, int kind, uint16_t* out) const;
  /// The same in the memory of the host.
  steady_layer host_layer(int kind, uint16_t* out) const;
  double flop(int kind) const;
  /// Bytes that must be read or written, each counted once: cached tokens, queries, answers.
  double unique_bytes(int kind) const;

 private:
  steady_step step_with(const int32_t* lengths) const;
  /// Where the lengths of a kind's compressed scope begin; those of the window come first.
  int lengths_at(int kind) const { return (1 + kind) * sizes_.batch; }

  Case sizes_;
  int sets_;
  std::mt19937 random_;  ///< seeded alike in each run
  std::vector<int32_t> host_lengths_;
  Scope window_;
  std::vector<Scope> compressed_;  ///< of each kind
  std::vector<uint16_t> host_q_;
  std::vector<float> host_sinks_;
  DeviceArray<int32_t> lengths_;
  DeviceArray<uint16_t> q_;
  DeviceArray<float> sinks_;
};

}  // namespace steady::bench
