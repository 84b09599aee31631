// SPDX-License-Identifier: Apache-2.0
// Text in, the same with escape sequences out if a terminal will read it.
#include "cli/terminal.hpp"

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <iostream>

namespace steady::cli {
namespace {

constexpr const char* kClearLine = "\r\x1b[K";

bool is_smart_terminal(int descriptor) {
  const char* kind = std::getenv("TERM");
  return isatty(descriptor) && kind != nullptr && std::strcmp(kind, "dumb") != 0;
}

std::string coloured(const char* code, const std::string& text) {
  static const bool enabled = [] {
    const char* refused = std::getenv("NO_COLOR");
    return is_smart_terminal(STDOUT_FILENO) && (refused == nullptr || *refused == '\0');
  }();
  return enabled ? std::string("\x1b[") + code + "m" + text + "\x1b[0m" : text;
}

}  // namespace

std::string good(const std::string& text) { return coloured("32", text); }
std::string bad(const std::string& text) { return coloured("31", text); }
std::string strong(const std::string& text) { return coloured("1", text); }

ProgressLine::ProgressLine() : enabled_(is_smart_terminal(STDERR_FILENO)) {}
ProgressLine::~ProgressLine() { clear(); }

void ProgressLine::show(const std::string& text) {
  if (enabled_) std::cerr << kClearLine << text << std::flush;
}

void ProgressLine::clear() {
  if (enabled_) std::cerr << kClearLine << std::flush;
}

}  // namespace steady::cli
