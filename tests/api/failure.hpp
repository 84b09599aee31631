// SPDX-License-Identifier: Apache-2.0
// A status goes in; whether the call failed as it should, and said why, comes out.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "steady/steady.h"

namespace steady::test {

// The call has failed with `want`, and the thread's last error has all of `words`: the field's
// name, and what is allowed.
inline testing::AssertionResult failed(steady_status got, steady_status want,
                                       const std::vector<std::string>& words) {
  if (got != want)
    return testing::AssertionFailure()
           << steady_status_name(got) << " instead of " << steady_status_name(want);
  const std::string text = steady_last_error();
  for (const std::string& word : words) {
    if (text.find(word) == std::string::npos)
      return testing::AssertionFailure() << "no '" << word << "' in: " << text;
  }
  return testing::AssertionSuccess();
}

inline testing::AssertionResult invalid(steady_status got, const std::vector<std::string>& words) {
  return failed(got, STEADY_INVALID_ARGUMENT, words);
}

// Gives an enum of the C interface any number, as a caller in C can.
template <typename Enum>
void set_number(Enum& field, int number) {
  static_assert(sizeof(Enum) == sizeof(int));
  std::memcpy(&field, &number, sizeof(int));
}

}  // namespace steady::test
