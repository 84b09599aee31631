// SPDX-License-Identifier: Apache-2.0
// Plan and decode of one layer in one call, with an engine that is found by the tensors' shapes.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "objects.hpp"

namespace steady::python {

/// What one engine differs in from another.
struct EngineKey {
  struct Pool {
    int64_t page_tokens, max_tokens;
    bool bf16;
    bool operator==(const Pool&) const = default;
  };
  int32_t device_type, device;
  int64_t heads, queries;
  double softmax_scale;
  Pool window, compressed;
  bool operator==(const EngineKey&) const = default;
};

/// The engines that were used last. The GIL guards it.
class EngineCache {
 public:
  /// make(q, heads, queries, softmax_scale, window, compressed) returns a new Engine.
  EngineCache(nanobind::callable make, size_t capacity)
      : make_(std::move(make)), capacity_(capacity) {}

  std::shared_ptr<Engine> find(const EngineKey& key, nanobind::handle q);
  void clear();

 private:
  struct Entry {
    EngineKey key;
    std::shared_ptr<Engine> engine;
  };

  nanobind::callable make_;
  size_t capacity_;
  std::vector<Entry> entries_;  // the one used last comes first
};

/// Where q's library has no exchange table, allocate(bytes, device) gives scratch, and
/// ask_stream(q) the address of the current stream.
void attend_tensors(EngineCache& engines, nanobind::callable allocate,
                    nanobind::callable ask_stream, nanobind::handle q, nanobind::handle out,
                    nanobind::handle lse, nanobind::handle sink, nanobind::handle window_pages,
                    nanobind::handle window_slots, nanobind::handle window_lengths,
                    nanobind::handle compressed_pages, nanobind::handle compressed_slots,
                    nanobind::handle compressed_lengths, double softmax_scale,
                    bool empty_lse_is_positive, bool heads_first_lse);

}  // namespace steady::python
