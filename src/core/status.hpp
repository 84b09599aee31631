// SPDX-License-Identifier: Apache-2.0
// How a call ended: a code and, for a failure, the sentence that the caller will read.
#pragma once

#include <sstream>
#include <string>
#include <utility>

#include "steady/steady.h"

namespace steady {

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(steady_status code, std::string text) : code_(code), text_(std::move(text)) {}

  bool ok() const { return code_ == STEADY_OK; }
  steady_status code() const { return code_; }
  const std::string& text() const { return text_; }

 private:
  steady_status code_ = STEADY_OK;
  std::string text_;  // empty for STEADY_OK, so that success allocates nothing
};

/// The parts one after the other, as a stream would write them.
template <class... Parts>
std::string join(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

template <class... Parts>
Status invalid(const Parts&... parts) {
  return {STEADY_INVALID_ARGUMENT, join(parts...)};
}

}  // namespace steady

/// Leaves the calling function with the status of `expression` if that is a failure.
#define STEADY_RETURN_IF_ERROR(expression)                                      \
  do {                                                                          \
    if (::steady::Status status_ = (expression); !status_.ok()) return status_; \
  } while (false)
