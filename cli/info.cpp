// SPDX-License-Identifier: Apache-2.0
// This build and this machine in, which backend would run, why not the others, and the roofs out.
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/backends.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"
#include "steady/steady.hpp"
#include "support/roof.hpp"
#include "support/text.hpp"

namespace steady::cli {
namespace {

constexpr const char* kFooter =
    "Examples:\n"
    "  steady info\n"
    "  STEADY_BACKEND=oracle steady info   what would run if that were asked for\n"
    "  steady info --json\n"
    "Exit codes: 0 all right, 1 no backend can run, 2 wrong usage.\n";

/// Of what runs, or why there is none: a device may be full of somebody else's work.
struct MeasuredRoof {
  support::Roof roof;
  std::string failure;
};

MeasuredRoof measure() {
  try {
    return {support::measure_roof(backend_named("auto").backend), ""};
  } catch (const std::exception& error) {
    return {{}, error.what()};
  }
}

void print_json(const std::vector<steady_backend_info>& backends, const MeasuredRoof& measured) {
  nlohmann::ordered_json document = {{"version", steady_version()}};
  document["backends"] = nlohmann::ordered_json::array();
  for (const auto& backend : backends) {
    document["backends"].push_back({{"name", backend.name},
                                    {"usable", backend.usable != 0},
                                    {"chosen", backend.chosen != 0},
                                    {"detail", backend.detail}});
  }
  const support::Roof& roof = measured.roof;
  if (measured.failure.empty()) {
    document["roof"] = {{"copy_gb_per_s", roof.copy_gb_per_s},
                        {"product_gflop_per_s", roof.product_gflop_per_s},
                        {"products", roof.products}};
  } else {
    document["roof"] = {{"failure", measured.failure}};
  }
  std::cout << document.dump(2) << "\n";
}

void print_backends(const std::vector<steady_backend_info>& backends) {
  std::cout << strong(std::string("steady ") + steady_version()) << "\n\nbackends, best first:\n";
  std::string better;
  for (const auto& backend : backends) {
    if (backend.chosen) better = backend.name;
  }
  for (const auto& backend : backends) {
    const std::string state = backend.chosen   ? good("runs")
                              : backend.usable ? "can run"
                                               : bad("cannot run");
    std::cout << "  " << strong(backend.name) << ": " << state << ", " << backend.detail;
    if (backend.usable && !backend.chosen && !better.empty())
      std::cout << " (" << better << " goes first)";
    std::cout << "\n";
  }
}

void print_roof(const MeasuredRoof& measured) {
  if (!measured.failure.empty()) {
    std::cout << "\nroofs not measured: " << measured.failure << "\n";
    return;
  }
  std::cout << support::format(
      "\nmeasured roofs of what runs:\n"
      "  copy       %8.1f GB/s (read and written, beyond the caches)\n"
      "  products   %8.1f GFLOP/s (%s)\n",
      measured.roof.copy_gb_per_s, measured.roof.product_gflop_per_s,
      measured.roof.products.c_str());
}

/// Throws where no backend would run, with the library's own reason.
void create_engine() {
  auto smallest = make<steady_shape>();
  smallest.heads = smallest.queries = smallest.max_batch = smallest.kinds = 1;
  smallest.softmax_scale = 1;
  smallest.window = {STEADY_CACHE_BF16, 1, 1};
  const Engine engine(smallest);
}

}  // namespace

RunVerb add_info(CLI::App& verb) {
  const auto json = std::make_shared<bool>(false);
  verb.add_flag("--json", *json, "Print one JSON document");
  verb.footer(kFooter);
  return [json] {
    const auto backends = describe_backends();
    if (*json) {
      print_json(backends, measure());
    } else {
      print_backends(backends);
      std::cout.flush();
      print_roof(measure());
    }
    create_engine();
    return kAllRight;
  };
}

}  // namespace steady::cli
