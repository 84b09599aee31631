// SPDX-License-Identifier: Apache-2.0
// The verb `bench`: its options in, the measurement's exit code out.
#include "cli/bench.hpp"

#include <memory>

#include "cli/backends.hpp"
#include "cli/verbs.hpp"

namespace steady::cli {
namespace {

constexpr const char* kFooter =
    "A case is a step, captured once and replayed, over inputs that take turns and do not fit the\n"
    "caches together: a plan and --layers layers, whose time is given for each layer.\n"
    "On the host a step of one layer, with all tokens, is measured interleaved with three "
    "baselines:\n"
    "  gather        the obvious way: row after row, plain loops gather the tokens and "
    "de-quantise\n"
    "                them to fp32, sgemm, softmax, sgemm; BLAS uses all threads\n"
    "  tuned_gather  the same with vectorised loops and the rows spread over the threads\n"
    "  sgemm         the two sgemm of each row alone, spread in the same way\n"
    "Before that, the answers are compared with the oracle's and with both gathering baselines'.\n"
    "With three kinds the layers are, in turn: window and 4:1 scope in pages of 64 tokens, window\n"
    "alone, window and 128:1 scope in pages of 2.\n"
    "Examples:\n"
    "  steady bench\n"
    "  steady bench --heads 64,128 --batch 32 --compressed 512\n"
    "  steady bench --threads 1 --json\n"
    "  steady bench --backend cuda --nodes --kinds 3 --batch 128 --heads 64\n"
    "  steady bench --backend cuda --beside other.csv   a table with the columns batch, heads,\n"
    "      queries, window_tokens, compressed_tokens and one that ends in _us\n"
    "Exit codes: 0 all right, 1 answers disagree, 2 wrong usage.\n";

void add_list(CLI::App& verb, const std::string& name, std::vector<int>& values, CLI::Range range,
              const std::string& text) {
  verb.add_option(name, values, text)->delimiter(',')->check(range)->capture_default_str();
}

}  // namespace

RunVerb add_bench(CLI::App& verb) {
  const auto settings = std::make_shared<BenchSettings>();
  add_backend_option(verb, settings->backend);
  add_list(verb, "--heads", settings->heads, CLI::Range(1, int{STEADY_MAX_HEADS}),
           "Heads of each case");
  add_list(verb, "--batch", settings->batches, CLI::Range(1, int{STEADY_MAX_BATCH}),
           "Requests of each case");
  verb.add_option("--window", settings->window, "Tokens of the window")
      ->check(CLI::Range(1, int{STEADY_MAX_TOKENS}))
      ->capture_default_str();
  add_list(verb, "--compressed", settings->compressed, CLI::Range(0, int{STEADY_MAX_TOKENS}),
           "Compressed tokens of each case, 0: window only");
  verb.add_option("--queries", settings->queries, "Query tokens of a request")
      ->check(CLI::Range(1, int{STEADY_MAX_QUERIES}))
      ->capture_default_str();
  verb.add_option("--kinds", settings->kinds, "Kinds of layers")
      ->check(CLI::IsMember({1, 3}))
      ->capture_default_str();
  verb.add_flag("--ragged", settings->ragged,
                "Lengths of each request's own, any from none to all of these tokens");
  verb.add_option("--layers", settings->layers,
                  "Layers of a step, 0: 1 on the host, 61 on devices or with three kinds")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  verb.add_option("--threads", settings->threads, "Threads, 0: one for each core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  verb.add_option("--repetitions", settings->repetitions, "Turns that each contestant gets")
      ->check(CLI::Range(1, 10'000))
      ->capture_default_str();
  verb.add_option("--min-time", settings->min_seconds, "Seconds of a turn, at least")
      ->check(CLI::Range(1e-3, 1e3))
      ->capture_default_str();
  verb.add_option("--beside", settings->beside, "Times of another kernel to print beside (CSV)")
      ->check(CLI::ExistingFile);
  verb.add_flag("--nodes", settings->nodes,
                "Trace one more step: its kernels and the gaps between them (devices)");
  verb.add_flag("--json", settings->json, "Print one JSON object a line and case");
  verb.add_option("--save", settings->save, "Write those lines to a file, whatever is printed");
  verb.footer(kFooter);
  return [settings] { return run_bench(*settings); };
}

}  // namespace steady::cli
