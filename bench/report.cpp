// SPDX-License-Identifier: Apache-2.0
// Results of cases in, a table or JSON lines out.
#include "bench/report.hpp"

#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>

#include "bench/baselines.hpp"
#include "cli/backends.hpp"
#include "cli/terminal.hpp"
#include "support/text.hpp"

namespace steady::bench {
namespace {

using support::format;

struct Speed {
  double gflop_per_s, gb_per_s, roof_percent;
};

Speed speed_of(const Result& result, const support::Roof& roof) {
  const double seconds = result.steady.median_us / 1e6;
  return {result.flop / seconds / 1e9, result.unique_bytes / seconds / 1e9,
          100 * roof.seconds(result.flop, result.unique_bytes) / seconds};
}

std::string microseconds(double us) { return format(us < 1000 ? "%.1f" : "%.0f", us); }

std::vector<std::string> cells(const Result& result, const support::Roof& roof) {
  const Timing& time = result.steady;
  const Speed speed = speed_of(result, roof);
  std::vector<std::string> row = {case_text(result.sizes),
                                  microseconds(time.median_us),
                                  microseconds(time.p10_us) + "–" + microseconds(time.p90_us),
                                  format("%.3g", speed.gflop_per_s / 1e3),
                                  format("%.2f", speed.gb_per_s),
                                  format("%.0f", speed.roof_percent)};
  for (const Timing& baseline : result.baselines) {
    const bool known = !std::isnan(baseline.median_us);
    row.push_back(known ? microseconds(baseline.median_us) : "–");
    row.push_back(known ? format("%.2f", baseline.median_us / time.median_us) : "–");
  }
  return row;
}

void print_nodes(const Result& result) {
  if (result.nodes.empty()) return;
  std::cout << case_text(result.sizes) << ":";
  for (const Node& node : result.nodes)
    std::cout << format("  %d × %s %.2f µs (at most %.2f)", node.count, node.name.c_str(),
                        node.median_us, node.largest_us);
  std::cout << "\n";
}

}  // namespace

std::string case_text(const Case& sizes) {
  return format("%d×%d×%d, %d+%d%s%s", sizes.batch, sizes.queries, sizes.heads, sizes.window,
                sizes.compressed, sizes.kinds == 1 ? "" : ", 3 kinds",
                sizes.ragged ? ", ragged" : "");
}

void print_json_line(const Setting& setting, const Result& result, std::ostream& out) {
  const Case& sizes = result.sizes;
  const Speed speed = speed_of(result, setting.roof);
  nlohmann::ordered_json line = {{"version", steady_version()},
                                 {"backend", setting.backend.name},
                                 {"detail", setting.backend.detail},
                                 {"threads", setting.threads},
                                 {"layers", setting.layers},
                                 {"kinds", sizes.kinds},
                                 {"roof_gflop_per_s", setting.roof.product_gflop_per_s},
                                 {"roof_gb_per_s", setting.roof.copy_gb_per_s},
                                 {"roof_products", setting.roof.products},
                                 {"batch", sizes.batch},
                                 {"queries", sizes.queries},
                                 {"heads", sizes.heads},
                                 {"window_tokens", sizes.window},
                                 {"compressed_tokens", sizes.compressed},
                                 {"ragged", sizes.ragged},
                                 {"oracle_error", result.oracle_error}};
  const auto add_timing = [&line](const Timing& timing) {
    line[timing.name + "_us"] = timing.median_us;
    line[timing.name + "_us_p10"] = timing.p10_us;
    line[timing.name + "_us_p90"] = timing.p90_us;
  };
  add_timing(result.steady);
  line["tflop_per_s"] = speed.gflop_per_s / 1e3;
  line["gb_per_s"] = speed.gb_per_s;
  line["roof_percent"] = speed.roof_percent;
  line["baselines"] = describe_baselines();
  line["baseline_error"] = result.baseline_error;
  for (const Timing& baseline : result.baselines) {
    add_timing(baseline);
    line["times_" + baseline.name] = baseline.median_us / result.steady.median_us;
  }
  for (const Node& node : result.nodes) {
    line[node.name + "_us"] = node.median_us;
    line[node.name + "_us_most"] = node.largest_us;
    line[node.name + "s_a_step"] = node.count;
  }
  out << line.dump() << std::endl;
}

void print_table(const Setting& setting, const std::vector<Result>& results) {
  std::string sides = "lrrrrr";
  std::vector<std::string> heads = {
      "batch×queries×heads, tokens", "µs", "10–90%", "TFLOP/s", "GB/s", "% roof"};
  for (const Timing& baseline : results[0].baselines) {
    sides += "rr";
    heads.insert(heads.end(), {baseline.name + " µs", "×"});
  }
  support::TextTable table(sides, heads);
  for (const Result& result : results) table.add(cells(result, setting.roof));
  const auto lines = table.lines();
  std::cout << cli::strong(lines[0]) << "\n";
  for (size_t i = 1; i < lines.size(); ++i) std::cout << lines[i] << "\n";
  std::cout << format(
      "backend %s (%s), %d threads; medians of captured steps of %d layer%s, for each layer;\n"
      "GB/s of unique bytes: tokens, queries, answers\n"
      "roof: the larger of flop at %.0f GFLOP/s and those bytes at %.1f GB/s, as measured (%s)\n",
      setting.backend.name, setting.backend.detail, setting.threads, setting.layers,
      setting.layers == 1 ? "" : "s", setting.roof.product_gflop_per_s, setting.roof.copy_gb_per_s,
      setting.roof.products.c_str());
  if (!results[0].baselines.empty())
    std::cout << "×: how many times as long as Steady a baseline takes\n";
  if (cli::is_on_host(setting.backend.backend)) std::cout << describe_baselines() << "\n";
  for (const Result& result : results) print_nodes(result);
}

}  // namespace steady::bench
