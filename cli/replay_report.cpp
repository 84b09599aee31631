// SPDX-License-Identifier: Apache-2.0
// Results of replays in, one row or one JSON object for each file out.
#include "cli/replay_report.hpp"

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/terminal.hpp"
#include "support/text.hpp"

namespace steady::cli {
namespace {

using support::format;
using Json = nlohmann::ordered_json;

constexpr size_t kFailuresShown = 6;

/// batch×queries×heads, window+compressed
std::string shape_text(const steady_shape& shape) {
  std::string text =
      format("%d×%d×%d, %d", shape.max_batch, shape.queries, shape.heads, shape.window.max_tokens);
  if (shape.compressed[0].max_tokens > 0) text += format("+%d", shape.compressed[0].max_tokens);
  return text;
}

std::string base_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

std::vector<std::string> cells(const ReplayResult& result) {
  if (!result.refusal.empty()) return {base_name(result.file), "refused"};
  if (!result.finished) return {base_name(result.file), shape_text(result.shape), "FAILED"};
  const auto& [allocations, frees] = result.allocations;
  return {base_name(result.file),
          shape_text(result.shape),
          format("%.0f", result.step_us),
          format("%.1f", result.layer_us),
          format("%.2f", result.cache_gb_per_s),
          format("%.1f", result.roof_percent),
          format("%.1e", result.worst_out_error),
          format("%.0e", result.worst_lse_error),
          format("%lld", static_cast<long long>(result.addresses_moved)),
          format("%lld", static_cast<long long>(allocations + frees)),
          result.replay_equals_eager ? "yes" : "NO",
          result.passed() ? "ok" : "FAILED"};
}

std::string place(const FaultTally& tally) {
  const steady_fault& first = tally.first;
  std::string text = format("first: step %d, ", tally.first_step);
  if (first.layer >= 0) text += format("layer %d, ", first.layer);
  text += format("%s, request %d", first.scope == 0 ? "window" : "compressed", first.request);
  if (first.query >= 0) text += format(", query %d", first.query);
  if (first.position >= 0) text += format(", position %d", first.position);
  return text + format(", value %d", first.value);
}

void print_faults(const ReplayResult& result) {
  const auto line = [](const char* what, const FaultTally& tally) {
    std::cout << format("  %-24s %lld", what, static_cast<long long>(tally.count));
    if (tally.count > 0) std::cout << " (" << place(tally) << ")";
    std::cout << "\n";
  };
  std::cout << "checked " << base_name(result.file) << ":\n";
  line("lengths below 0", result.negative_length);
  line("lengths above the width", result.long_length);
  line("stray slots", result.stray_slot);
}

void print_failures(const ReplayResult& result) {
  if (!result.refusal.empty()) std::cout << bad("refused") << " " << result.refusal << "\n";
  const size_t shown = std::min(kFailuresShown, result.failures.size());
  for (size_t i = 0; i < shown; ++i)
    std::cout << bad("FAILED") << " " << base_name(result.file) << ": " << result.failures[i]
              << "\n";
  if (result.failures.size() > shown)
    std::cout << "       and " << result.failures.size() - shown << " more\n";
}

Json fault_json(const FaultTally& tally) {
  Json json = {{"count", tally.count}};
  if (tally.count > 0) {
    const steady_fault& first = tally.first;
    json["first"] = {{"step", tally.first_step},   {"layer", first.layer},
                     {"kind", first.kind},         {"scope", first.scope},
                     {"request", first.request},   {"query", first.query},
                     {"position", first.position}, {"value", first.value}};
  }
  return json;
}

Json result_json(const ReplayResult& result, bool checked) {
  Json json = {{"file", result.file}, {"passed", result.passed()}};
  if (!result.refusal.empty()) {
    json["refusal"] = result.refusal;
    return json;
  }
  const steady_shape& shape = result.shape;
  json["shape"] = {{"batch", shape.max_batch},
                   {"queries", shape.queries},
                   {"heads", shape.heads},
                   {"window_tokens", shape.window.max_tokens},
                   {"compressed_tokens", shape.compressed[0].max_tokens}};
  json["failures"] = result.failures;
  if (!result.finished) return json;
  json["step_us"] = result.step_us;
  json["layer_us"] = result.layer_us;
  json["cache_gb_per_s"] = result.cache_gb_per_s;
  json["roof_percent"] = result.roof_percent;
  json["worst_out_error"] = result.worst_out_error;
  json["worst_lse_error"] = result.worst_lse_error;
  json["addresses_moved"] = result.addresses_moved;
  json["allocations"] = result.allocations.allocations;
  json["frees"] = result.allocations.frees;
  json["replay_equals_eager"] = result.replay_equals_eager;
  if (checked) {
    json["faults"] = {{"negative_length", fault_json(result.negative_length)},
                      {"long_length", fault_json(result.long_length)},
                      {"stray_slot", fault_json(result.stray_slot)}};
  }
  return json;
}

void print_legend(const ReplaySettings& settings, const support::Roof& roof) {
  std::cout << format(
      "%d layers captured once, %d steps replayed; medians of the replays; GB/s of unique cache "
      "bytes;\nroof: the larger of flop at %.0f GFLOP/s and those bytes at %.1f GB/s, as measured "
      "(%s)\n",
      settings.layers, settings.steps, roof.product_gflop_per_s, roof.copy_gb_per_s,
      roof.products.c_str());
}

}  // namespace

void print_replay_table(const std::vector<ReplayResult>& results, const ReplaySettings& settings,
                        const support::Roof& roof) {
  support::TextTable table("llrrrrrrrrll",
                           {"file", "batch×queries×heads, tokens", "µs/step", "µs/layer", "GB/s",
                            "% roof", "out error", "lse error", "moved", "allocs", "= eager", ""});
  for (const ReplayResult& result : results) table.add(cells(result));
  const auto lines = table.lines();
  std::cout << strong(lines[0]) << "\n";
  for (size_t i = 0; i < results.size(); ++i)
    std::cout << (results[i].passed() ? lines[i + 1] : bad(lines[i + 1])) << "\n";

  const bool any_finished = std::any_of(results.begin(), results.end(),
                                        [](const ReplayResult& result) { return result.finished; });
  if (any_finished) print_legend(settings, roof);
  for (const ReplayResult& result : results) {
    if (settings.checked && result.finished) print_faults(result);
    print_failures(result);
  }
}

void print_replay_json(const std::vector<ReplayResult>& results, const ReplaySettings& settings,
                       const support::Roof& roof) {
  Json document = {{"version", steady_version()},
                   {"layers", settings.layers},
                   {"steps", settings.steps},
                   {"checked", settings.checked},
                   {"roof",
                    {{"copy_gb_per_s", roof.copy_gb_per_s},
                     {"product_gflop_per_s", roof.product_gflop_per_s},
                     {"products", roof.products}}},
                   {"files", Json::array()}};
  for (const ReplayResult& result : results)
    document["files"].push_back(result_json(result, settings.checked));
  std::cout << document.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
}

}  // namespace steady::cli
