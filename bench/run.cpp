// SPDX-License-Identifier: Apache-2.0
// Settings in, each case checked, measured and reported, an exit code out.
#include <iostream>

#include "bench/baselines.hpp"
#include "bench/contest.hpp"
#include "bench/inputs.hpp"
#include "bench/report.hpp"
#include "cli/bench.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"
#include "support/compare.hpp"
#include "support/text.hpp"

namespace steady::bench {
namespace {

constexpr double kLargestError = 2.5e-3;  // bf16 rounding makes 1.8e-3

/// Numbers of wrong answers are none.
class WrongAnswer : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

Engine make_engine(const steady_shape& shape, steady_backend backend, int threads) {
  auto options = make<steady_options>();
  options.backend = backend;
  options.threads = threads;
  return Engine(shape, options);
}

/// One captured graph for each set of inputs.
class CapturedSteps {
 public:
  CapturedSteps(const Engine& engine, const Case& sizes, const Inputs& inputs, uint16_t* out)
      : workspace_(engine), stream_(engine) {
    auto step = make<steady_step>();
    step.batch = sizes.batch;
    for (int set = 0; set < inputs.sets(); ++set) {
      graphs_.push_back(engine.capture(stream_, [&] {
        engine.plan(workspace_, step, stream_);
        engine.decode(workspace_, step, inputs.layer(set, out), stream_);
      }));
    }
  }

  void replay(int set) const {
    graphs_[set].replay(stream_);
    stream_.wait();
  }

 private:
  Workspace workspace_;
  Stream stream_;
  std::vector<Graph> graphs_;
};

/// The oracle's answer for the first request alone.
std::vector<uint16_t> first_answer(Case sizes, const Inputs& inputs, int threads) {
  sizes.batch = 1;
  const Engine oracle = make_engine(sizes.shape(), STEADY_ORACLE, threads);
  std::vector<uint16_t> out(sizes.vector_values());
  auto step = make<steady_step>();
  step.batch = 1;
  const Workspace workspace(oracle);
  oracle.plan(workspace, step);
  oracle.decode(workspace, step, inputs.layer(0, out.data()));
  return out;
}

double checked_error(std::span<const uint16_t> answer, std::span<const uint16_t> right,
                     const char* whose, const Case& sizes) {
  const double error = support::relative_error(answer, right);
  if (error < kLargestError) return error;
  throw WrongAnswer(support::format(
      "case %s: the answer is %.1e away from the %s's; %.1e is allowed, so no numbers",
      case_text(sizes).c_str(), error, whose, kLargestError));
}

Result measure(const cli::BenchSettings& settings, const Setting& setting, const Case& sizes) {
  const int threads = setting.threads;
  const Engine engine = make_engine(sizes.shape(), setting.backend.backend, threads);
  const Inputs inputs(engine, sizes);
  std::vector<uint16_t> out(sizes.vector_values()), baseline_out(out.size());
  const CapturedSteps steps(engine, sizes, inputs, out.data());
  Result result = {sizes, inputs.unique_bytes(), 0, 0, {}, {}};

  steps.replay(0);
  const auto right = first_answer(sizes, inputs, threads);
  result.oracle_error = checked_error(std::span(out).first(right.size()), right, "oracle", sizes);

  std::vector<Contestant> contestants = {{"steady", [&](int set) { steps.replay(set); }}};
  const auto baselines = make_baselines(sizes.shape(), threads);
  if (baselines) {
    const auto layer = [&](int set) { return inputs.layer(set, baseline_out.data()); };
    contestants.push_back({"gather", [&](int set) { baselines->gather(layer(set)); }});
    contestants.push_back({"tuned_gather", [&](int set) { baselines->gather_tuned(layer(set)); }});
    for (const int attending : {1, 2}) {
      std::fill(baseline_out.begin(), baseline_out.end(), uint16_t{0});
      contestants[attending].step(0);
      const double error = checked_error(out, baseline_out, "baseline", sizes);
      result.baseline_error = std::max(result.baseline_error, error);
    }
    contestants.push_back({"sgemm", [&](int) { baselines->multiply(); }});
  }
  const auto timings =
      run_contest(contestants, inputs.sets(), {settings.repetitions, settings.min_seconds});
  result.steady = timings[0];
  result.baselines.assign(timings.begin() + 1, timings.end());
  return result;
}

std::vector<Case> cases_of(const cli::BenchSettings& settings) {
  std::vector<Case> cases;
  for (const int heads : settings.heads) {
    for (const int batch : settings.batches) {
      for (const int compressed : settings.compressed)
        cases.push_back({heads, batch, settings.queries, settings.window, compressed});
    }
  }
  return cases;
}

steady_backend_info backend_named(const std::string& name) {
  for (const auto& backend : describe_backends()) {
    if (name == "auto" ? backend.chosen != 0 : name == backend.name) return backend;
  }
  return make<steady_backend_info>();  // STEADY_AUTO; the library will say why it fails
}

}  // namespace
}  // namespace steady::bench

int steady::cli::run_bench(const BenchSettings& settings) {
  using namespace steady::bench;
  ProgressLine progress;
  progress.show("measuring the roofs of this machine");
  const support::Roof roof = support::measure_roof();
  const int threads = settings.threads > 0 ? settings.threads : roof.threads;
  const Setting setting = {backend_named(settings.backend), threads, roof};
  std::vector<Result> results;
  try {
    for (const Case& sizes : cases_of(settings)) {
      progress.show("case " + case_text(sizes));
      results.push_back(measure(settings, setting, sizes));
      progress.clear();
      if (settings.json) print_json_line(setting, results.back());
    }
  } catch (const WrongAnswer& wrong) {
    progress.clear();
    std::cerr << "steady: " << wrong.what() << "\n";
    return kRefusedOrFailed;
  }
  progress.clear();
  if (!settings.json) print_table(setting, results);
  return kAllRight;
}
