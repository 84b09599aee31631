// SPDX-License-Identifier: Apache-2.0
// The command line in, one verb's work and an exit code out.
#include <iostream>
#include <utility>
#include <vector>

#include "cli/verbs.hpp"
#include "steady/steady.h"

namespace steady::cli {
namespace {

struct Verb {
  const char* name;
  const char* summary;
  RunVerb (*add)(CLI::App&);
};

constexpr Verb kVerbs[] = {
    {"replay", "Capture the step of a recorded call once, replay it, and check every answer",
     add_replay},
    {"info", "Show the backends, best first, and what this machine can do at most", add_info},
    {"inspect", "Show what a recorded call holds", add_inspect},
#ifdef STEADY_HAS_BENCH
    {"bench", "Measure captured steps, on the CPU beside baselines that call BLAS", add_bench},
#endif
};

constexpr const char* kFooter =
    "Exit codes: 0 all right, 1 a file was refused or a check failed, 2 wrong usage.\n"
    "`steady VERB --help` tells more of each.\n";

int run(int argc, char** argv) {
  CLI::App app("The decode step of DeepSeek-V4's sparse attention, captured once and replayed.",
               "steady");
  app.set_version_flag("--version", std::string("steady ") + steady_version());
  app.footer(kFooter);
  std::vector<std::pair<CLI::App*, RunVerb>> verbs;
  for (const Verb& verb : kVerbs) {
    CLI::App* subcommand = app.add_subcommand(verb.name, verb.summary);
    verbs.emplace_back(subcommand, verb.add(*subcommand));
  }

  try {
    app.parse(argc, argv);
    if (app.get_subcommands().empty()) throw CLI::RequiredError("A verb");
  } catch (const CLI::ParseError& answer) {  // --help and --version come this way too
    return app.exit(answer) == 0 ? kAllRight : kWrongUsage;
  }
  for (const auto& [subcommand, run_verb] : verbs) {
    if (subcommand->parsed()) return run_verb();
  }
  return kWrongUsage;
}

}  // namespace
}  // namespace steady::cli

int main(int argc, char** argv) {
  int code = steady::cli::kRefusedOrFailed;
  try {
    code = steady::cli::run(argc, argv);
  } catch (const std::bad_alloc&) {
    std::cerr << "steady: there is not enough memory for this\n";
  } catch (const std::exception& error) {
    std::cerr << "steady: " << error.what() << "\n";
  }
  if (!std::cout.flush()) {
    std::cerr << "steady: standard output could not be written\n";
    return steady::cli::kRefusedOrFailed;
  }
  return code;
}
