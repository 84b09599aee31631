// SPDX-License-Identifier: Apache-2.0
// A recorded call of a decode kernel in, its inputs and answers out, every shape checked against
// every other.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "steady/steady.h"
#include "support/safetensors.hpp"

namespace steady::support {

/// One pool as the call saw it, with its slots and lengths.
struct RecordedScope {
  steady_pool_shape shape = {};
  std::vector<uint8_t> pages;
  int64_t page_stride_bytes = 0;
  int64_t page_count = 0;
  std::vector<int32_t> slots;    ///< [batch, queries, max_tokens]
  std::vector<int32_t> lengths;  ///< [batch]; the full width where the file has none

  int64_t capacity() const { return page_count * shape.page_tokens; }
};

struct RecordedCall {
  steady_shape shape = {};  ///< max_batch is the batch of the call; one kind
  RecordedScope window;
  std::optional<RecordedScope> compressed;
  std::vector<uint16_t> q;   ///< bf16 [batch, queries, heads, 512]
  std::vector<float> sinks;  ///< [heads], or empty

  std::vector<float> out_exact, lse_exact;
  std::vector<uint16_t> out_recorded;  ///< bf16
  std::vector<float> lse_recorded;     ///< -inf for an empty row, as in steady.h

  int batch() const { return shape.max_batch; }
  int rows() const { return shape.max_batch * shape.queries; }
  std::vector<const RecordedScope*> scopes() const;  ///< the window first
};

/// Throws FileError unless the file is a recorded call through and through.
RecordedCall load_recorded_call(SafetensorsFile& file);

/// What the slots within the lengths name.
struct SlotCensus {
  int64_t valid = 0, none = 0, stray = 0;  ///< in the pool; -1; neither
  int64_t past_length = 0;                 ///< not looked at
  std::vector<int32_t> read;               ///< the valid ones, each once, ascending
};

/// For `scope` with these slots and lengths instead of the recorded ones.
SlotCensus count_slots(const RecordedScope& scope, int queries, std::span<const int32_t> slots,
                       std::span<const int32_t> lengths);

}  // namespace steady::support
