// SPDX-License-Identifier: Apache-2.0
// Arguments in, what the built program wrote and how it ended out.
#pragma once

#include <string>

namespace steady::test {

struct Outcome {
  int code = 0;  ///< 128 and more: ended by a signal
  std::string out, err;
};

/// `arguments` and `environment` (assignments) as a shell reads them.
Outcome run_steady(const std::string& arguments, const std::string& environment = "");

/// The same with standard output and error on one terminal; both are in `out`.
Outcome run_steady_on_terminal(const std::string& arguments, const std::string& environment = "");

/// `path` as one word for a shell.
std::string shell_word(const std::string& path);

}  // namespace steady::test
