// SPDX-License-Identifier: Apache-2.0
// What a verb is, and the verbs.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace steady::cli {

enum ExitCode { kAllRight = 0, kRefusedOrFailed = 1, kWrongUsage = 2 };

/// Does the job with the options that have been parsed by then. Returns the exit code.
using RunVerb = std::function<int()>;

/// Each adds its options to its subcommand.
RunVerb add_replay(CLI::App& verb);
RunVerb add_info(CLI::App& verb);
RunVerb add_inspect(CLI::App& verb);
RunVerb add_bench(CLI::App& verb);

}  // namespace steady::cli
