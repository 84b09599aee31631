// SPDX-License-Identifier: Apache-2.0
// A call's Status or exception in, its C status and the thread's error text out.
#pragma once

#include <exception>
#include <new>
#include <string>

#include "core/status.hpp"

namespace steady {

/// The text behind steady_last_error().
inline std::string& last_error() {
  thread_local std::string text;
  return text;
}

inline steady_status report(const Status& status) {
  if (!status.ok()) last_error() = status.text();
  return status.code();
}

/// For want of memory even the text may not fit; then there is none.
inline steady_status report_exception(steady_status code, const char* text) noexcept {
  try {
    last_error() = text;
  } catch (const std::bad_alloc&) {
    last_error().clear();
  }
  return code;
}

/// Runs the body of a C function; no exception passes.
template <class Body>
steady_status guarded(const Body& body) noexcept {
  try {
    return report(body());
  } catch (const std::bad_alloc&) {
    return report_exception(STEADY_OUT_OF_MEMORY, "no memory left on the host");
  } catch (const std::exception& error) {
    return report_exception(STEADY_INTERNAL, error.what());
  }
}

}  // namespace steady
