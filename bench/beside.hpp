// SPDX-License-Identifier: Apache-2.0
// A table of another kernel's times in, its time for a case out.
#pragma once

#include <string>
#include <vector>

#include "bench/contest.hpp"
#include "bench/inputs.hpp"

namespace steady::bench {

/// A CSV file with a header: the columns batch, heads, queries, window_tokens, compressed_tokens
/// say which case a row is; the first column that ends in _us holds its time.
class Beside {
 public:
  /// Nothing stands beside.
  Beside() = default;
  /// Throws std::runtime_error with file and line where the file cannot be understood.
  explicit Beside(const std::string& path);

  bool given() const { return !name_.empty(); }
  /// NaN where the table lacks the case.
  Timing timing_of(const Case& sizes) const;

 private:
  struct Row {
    std::vector<int> sizes;
    double us;
  };

  std::string name_;
  std::vector<Row> rows_;
};

}  // namespace steady::bench
