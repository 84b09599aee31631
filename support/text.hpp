// SPDX-License-Identifier: Apache-2.0
// Cells in, an aligned table of text out; and printf into a string.
#pragma once

#include <string>
#include <vector>

namespace steady::support {

__attribute__((format(printf, 1, 2))) std::string format(const char* pattern, ...);

class TextTable {
 public:
  /// `sides` has 'l' or 'r' for each column: the side that its cells keep to.
  TextTable(std::string sides, std::vector<std::string> heads)
      : sides_(std::move(sides)), rows_{std::move(heads)} {}
  void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  /// The heads, then one line for each row.
  std::vector<std::string> lines() const;

 private:
  std::string sides_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace steady::support
