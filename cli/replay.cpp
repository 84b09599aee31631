// SPDX-License-Identifier: Apache-2.0
// Recorded calls in, each captured as one step and replayed, a verdict on all of them out.
#include <algorithm>
#include <iostream>
#include <memory>

#include "cli/backends.hpp"
#include "cli/replay_call.hpp"
#include "cli/replay_report.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"
#include "steady/steady.hpp"
#include "support/text.hpp"

namespace steady::cli {
namespace {

constexpr const char* kFooter =
    "A step of --layers layers is captured once for each file. Before each replay lengths, slots\n"
    "and queries are rewritten in place: step 0 has the recorded ones, which are checked against\n"
    "the recorded and the exact answers; later steps have reproducible variations, of which one\n"
    "layer a step is checked against the oracle. On every step all layers are checked bit for\n"
    "bit against the same step run eagerly.\n"
    "Examples:\n"
    "  steady replay recorded/*.safetensors\n"
    "  steady replay --backend oracle --layers 2 --steps 4 call.safetensors\n"
    "  steady replay --checked --json call.safetensors | jq .files[0].faults\n"
    "Exit codes: 0 all right, 1 a file was refused or a check failed, 2 wrong usage.\n";

struct Options {
  std::vector<std::string> files;
  std::string backend;
  bool json = false;
  ReplaySettings settings;
};

ReplayResult replay_file(const std::string& path, const ReplaySettings& settings,
                         const support::Roof& roof, ProgressLine* progress) {
  ReplayResult result;
  result.file = path;
  try {
    support::SafetensorsFile file(path);
    const support::RecordedCall call = support::load_recorded_call(file);
    result.shape = call.shape;
    const auto on_step = [&](int step) {
      progress->show(support::format("%s: step %d of %d", path.c_str(), step + 1, settings.steps));
    };
    replay_call(call, settings, roof, on_step, &result);
  } catch (const support::FileError& error) {
    result.refusal = error.what();
  } catch (const Error& error) {
    result.failures.push_back(std::string(steady_status_name(error.status())) + ": " +
                              error.what());
  } catch (const std::bad_alloc&) {
    result.failures.push_back("there is not enough memory for this");
  }
  return result;
}

int run(const Options& options) {
  ReplaySettings settings = options.settings;
  settings.backend = backend_named(options.backend).backend;

  std::vector<ReplayResult> results;
  ProgressLine progress;
  progress.show("measuring the roofs of this machine");
  const support::Roof roof = support::measure_roof(settings.backend);
  for (const std::string& path : options.files) {
    results.push_back(replay_file(path, settings, roof, &progress));
    progress.clear();
    if (!results.back().refusal.empty()) std::cerr << "steady: " << results.back().refusal << "\n";
  }

  (options.json ? print_replay_json : print_replay_table)(results, settings, roof);
  const bool passed = std::all_of(results.begin(), results.end(),
                                  [](const ReplayResult& result) { return result.passed(); });
  return passed ? kAllRight : kRefusedOrFailed;
}

}  // namespace

RunVerb add_replay(CLI::App& verb) {
  const auto options = std::make_shared<Options>();
  ReplaySettings& settings = options->settings;
  verb.add_option("FILE", options->files, "Recorded calls (safetensors)")->required();
  add_backend_option(verb, options->backend);
  verb.add_option("--layers", settings.layers, "Layers of the step")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  verb.add_option("--steps", settings.steps, "Replays of each step")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  verb.add_option("--threads", settings.threads, "Threads of a CPU backend, 0: one for each core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  verb.add_flag("--checked", settings.checked,
                "Slip in bad lengths and slots, and show what the checked engine reports");
  verb.add_flag("--json", options->json, "Print one JSON document instead of the table");
  verb.footer(kFooter);
  return [options] { return run(*options); };
}

}  // namespace steady::cli
