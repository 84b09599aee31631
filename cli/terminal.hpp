// SPDX-License-Identifier: Apache-2.0
// What the program shows in, colours and a line of progress out where a person watches.
#pragma once

#include <string>

namespace steady::cli {

/// Colours what goes to a terminal on standard output, unless NO_COLOR or a dumb terminal forbids.
std::string good(const std::string& text);
std::string bad(const std::string& text);
std::string strong(const std::string& text);

/// One line on standard error that each update overwrites and the end removes. Silent where
/// standard error is no terminal.
class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void show(const std::string& text);
  void clear();

 private:
  bool enabled_;
};

}  // namespace steady::cli
