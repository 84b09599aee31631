// SPDX-License-Identifier: Apache-2.0
// What went wrong in, a Python exception with the library's words out.
#pragma once

#include <nanobind/nanobind.h>

#include <sstream>
#include <string>

#include "steady/steady.h"

namespace steady::python {

/// Adds steady.Error and steady.InvalidArgument to the module.
void add_exceptions(nanobind::module_& module);

[[noreturn]] void fail(steady_status status, const std::string& sentence);

/// Refuses an argument, as the library does.
template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream sentence;
  (sentence << ... << parts);
  fail(STEADY_INVALID_ARGUMENT, sentence.str());
}

inline void check(steady_status status) {
  if (status != STEADY_OK) fail(status, steady_last_error());
}

}  // namespace steady::python
