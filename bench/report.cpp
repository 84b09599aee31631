// SPDX-License-Identifier: Apache-2.0
// Results of cases in, a table or JSON lines out.
#include "bench/report.hpp"

#include <iostream>
#include <nlohmann/json.hpp>

#include "bench/baselines.hpp"
#include "cli/terminal.hpp"
#include "support/text.hpp"

namespace steady::bench {
namespace {

using support::format;

struct Speed {
  double gflop_per_s, cache_gb_per_s, roof_percent;
};

Speed speed_of(const Result& result, const support::Roof& roof) {
  const double seconds = result.steady.median_us / 1e6, flop = result.sizes.flop();
  return {flop / seconds / 1e9, result.unique_bytes / seconds / 1e9,
          100 * roof.seconds(flop, result.unique_bytes) / seconds};
}

std::vector<std::string> cells(const Result& result, const support::Roof& roof) {
  const Timing& time = result.steady;
  const Speed speed = speed_of(result, roof);
  std::vector<std::string> row = {case_text(result.sizes),
                                  format("%.0f", time.median_us),
                                  format("%.0f–%.0f", time.p10_us, time.p90_us),
                                  format("%.1f", speed.gflop_per_s),
                                  format("%.2f", speed.cache_gb_per_s),
                                  format("%.0f", speed.roof_percent)};
  for (const Timing& baseline : result.baselines) {
    row.push_back(format("%.0f", baseline.median_us));
    row.push_back(format("%.2f", baseline.median_us / time.median_us));
  }
  return row;
}

}  // namespace

std::string case_text(const Case& sizes) {
  return format("%d×%d×%d, %d+%d", sizes.batch, sizes.queries, sizes.heads, sizes.window,
                sizes.compressed);
}

void print_json_line(const Setting& setting, const Result& result) {
  const Case& sizes = result.sizes;
  const Speed speed = speed_of(result, setting.roof);
  nlohmann::ordered_json line = {{"version", steady_version()},
                                 {"backend", setting.backend.name},
                                 {"detail", setting.backend.detail},
                                 {"threads", setting.threads},
                                 {"roof_gflop_per_s", setting.roof.fma_gflop_per_s},
                                 {"roof_gb_per_s", setting.roof.copy_gb_per_s},
                                 {"batch", sizes.batch},
                                 {"queries", sizes.queries},
                                 {"heads", sizes.heads},
                                 {"window_tokens", sizes.window},
                                 {"compressed_tokens", sizes.compressed},
                                 {"oracle_error", result.oracle_error}};
  const auto add_timing = [&line](const Timing& timing) {
    line[timing.name + "_us"] = timing.median_us;
    line[timing.name + "_us_p10"] = timing.p10_us;
    line[timing.name + "_us_p90"] = timing.p90_us;
  };
  add_timing(result.steady);
  line["gflop_per_s"] = speed.gflop_per_s;
  line["cache_gb_per_s"] = speed.cache_gb_per_s;
  line["roof_percent"] = speed.roof_percent;
  line["baselines"] = describe_baselines();
  line["baseline_error"] = result.baseline_error;
  for (const Timing& baseline : result.baselines) {
    add_timing(baseline);
    line["times_" + baseline.name] = baseline.median_us / result.steady.median_us;
  }
  std::cout << line.dump() << std::endl;
}

void print_table(const Setting& setting, const std::vector<Result>& results) {
  std::string sides = "lrrrrr";
  std::vector<std::string> heads = {
      "batch×queries×heads, tokens", "µs", "10–90%", "GFLOP/s", "GB/s", "% roof"};
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
      "backend %s (%s), %d threads; medians of single steps; GB/s of unique cache bytes\n"
      "roof: the larger of flop at %.0f GFLOP/s and those bytes at %.1f GB/s, measured on %d "
      "threads\n",
      setting.backend.name, setting.backend.detail, setting.threads, setting.roof.fma_gflop_per_s,
      setting.roof.copy_gb_per_s, setting.roof.threads);
  if (!results[0].baselines.empty())
    std::cout << "×: how many times as long as Steady a baseline takes\n";
  std::cout << describe_baselines() << "\n";
}

}  // namespace steady::bench
