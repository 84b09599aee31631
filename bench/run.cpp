// SPDX-License-Identifier: Apache-2.0
// Settings in, each case checked, measured and reported, an exit code out.
#include <unistd.h>

#include <fstream>
#include <iostream>

#include "bench/baselines.hpp"
#include "bench/beside.hpp"
#include "bench/contest.hpp"
#include "bench/inputs.hpp"
#include "bench/report.hpp"
#include "cli/backends.hpp"
#include "cli/bench.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"
#include "support/compare.hpp"
#include "support/text.hpp"

namespace steady::bench {
namespace {

/// Of one request's answer; a device rounds weights to bf16 as well (docs/numerics.md).
double largest_error(steady_backend backend) { return cli::is_on_host(backend) ? 2.5e-3 : 4e-3; }

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

/// What all sets of inputs together must exceed, so that no cache holds them.
int64_t rotation_bytes(steady_backend backend) {
  constexpr int64_t kBeyondAnyL2 = int64_t{256} << 20;
  return cli::is_on_host(backend) ? 2 * sysconf(_SC_LEVEL3_CACHE_SIZE) : kBeyondAnyL2;
}

/// A layer on a device is over before its graph has been launched.
int layers_of(const cli::BenchSettings& settings, steady_backend backend) {
  constexpr int kModelLayers = 61;
  if (settings.layers > 0) return settings.layers;
  return cli::is_on_host(backend) && settings.kinds == 1 ? 1 : kModelLayers;
}

/// Graphs of a plan and `layers` layers, as many as bring every set of inputs to its turn.
class CapturedSteps {
 public:
  CapturedSteps(const Engine& engine, const Case& sizes, const Inputs& inputs, int layers,
                uint16_t* out)
      : engine_(engine),
        sizes_(sizes),
        inputs_(inputs),
        layers_(layers),
        out_(out),
        workspace_(engine),
        stream_(engine) {
    for (int first = 0; first < inputs.sets(); first += layers) graphs_.push_back(capture(first));
  }

  int count() const { return static_cast<int>(graphs_.size()); }

  void replay(int number) const { replay(graphs_[number]); }

  void capture_and_replay() const { replay(capture(0)); }

 private:
  Graph capture(int first_set) const {
    const steady_step step = inputs_.step();
    return engine_.capture(stream_, [&] {
      engine_.plan(workspace_, step, stream_);
      for (int layer = 0; layer < layers_; ++layer) {
        const int set = (first_set + layer) % inputs_.sets();
        engine_.decode(workspace_, step, inputs_.layer(set, layer % sizes_.kinds, out_), stream_);
      }
    });
  }

  void replay(const Graph& graph) const {
    graph.replay(stream_);
    stream_.wait();
  }

  const Engine& engine_;
  const Case& sizes_;
  const Inputs& inputs_;
  const int layers_;
  uint16_t* const out_;
  Workspace workspace_;
  Stream stream_;
  std::vector<Graph> graphs_;
};

/// The oracle's answer for the first request alone, in a layer of `kind`.
std::vector<uint16_t> first_answer(Case sizes, const Inputs& inputs, int kind) {
  sizes.batch = 1;
  const Engine oracle = make_engine(sizes.shape(), STEADY_ORACLE, 0);
  std::vector<uint16_t> out(sizes.vector_values());
  steady_step step = inputs.host_step();
  step.batch = 1;
  const Workspace workspace(oracle);
  oracle.plan(workspace, step);
  oracle.decode(workspace, step, inputs.host_layer(kind, out.data()));
  return out;
}

double checked_error(std::span<const uint16_t> answer, std::span<const uint16_t> right,
                     const char* whose, double allowed, const Case& sizes) {
  const double error = support::relative_error(answer, right);
  if (error < allowed) return error;
  throw WrongAnswer(support::format(
      "case %s: the answer is %.1e away from the %s's; %.1e is allowed, so no numbers",
      case_text(sizes).c_str(), error, whose, allowed));
}

/// Flop and bytes of a layer, the mean of a step's.
void count_work(const Inputs& inputs, int layers, Result* result) {
  for (int layer = 0; layer < layers; ++layer) {
    const int kind = layer % result->sizes.kinds;
    result->flop += inputs.flop(kind) / layers;
    result->unique_bytes += inputs.unique_bytes(kind) / layers;
  }
}

/// The gathering baselines answer too, and are checked before they are measured.
std::vector<Contestant> contestants_beside(Baselines& baselines, const Inputs& inputs,
                                           std::span<const uint16_t> answer, uint16_t* out,
                                           Result* result) {
  const auto layer = [&inputs, out](int set) { return inputs.layer(set, 0, out); };
  std::vector<Contestant> contestants = {
      {"gather", [&, layer](int set) { baselines.gather(layer(set)); }},
      {"tuned_gather", [&, layer](int set) { baselines.gather_tuned(layer(set)); }}};
  for (const Contestant& attending : contestants) {
    std::fill_n(out, answer.size(), uint16_t{0});
    attending.step(0);
    const double error = checked_error(answer, std::span(out, answer.size()), "baseline",
                                       largest_error(STEADY_CPU), result->sizes);
    result->baseline_error = std::max(result->baseline_error, error);
  }
  contestants.push_back({"sgemm", [&](int) { baselines.multiply(); }});
  return contestants;
}

Result measure(const cli::BenchSettings& settings, const Setting& setting, const Beside& beside,
               const Case& sizes) {
  const steady_backend backend = setting.backend.backend;
  const Engine engine = make_engine(sizes.shape(), backend, setting.threads);
  const Inputs inputs(engine, sizes, rotation_bytes(backend));
  const DeviceArray<uint16_t> out(engine, sizes.vector_values());
  const CapturedSteps steps(engine, sizes, inputs, setting.layers, out.data());
  Result result = {sizes, 0, 0, 0, 0, {}, {}, {}};
  count_work(inputs, setting.layers, &result);

  steps.replay(0);
  std::vector<uint16_t> answer(out.size()), baseline_out(out.size());
  engine.download(answer.data(), out.data(), answer.size() * sizeof(uint16_t));
  check(steady_stream_wait(engine.get(), nullptr));
  const auto right = first_answer(sizes, inputs, (setting.layers - 1) % sizes.kinds);
  result.oracle_error = checked_error(std::span(answer).first(right.size()), right, "oracle",
                                      largest_error(backend), sizes);

  std::vector<Contestant> contestants = {{"steady", [&](int set) { steps.replay(set); }}};
  const bool comparable =
      cli::is_on_host(backend) && setting.layers == 1 && sizes.kinds == 1 && !sizes.ragged;
  const auto baselines = comparable ? make_baselines(sizes.shape(), setting.threads) : nullptr;
  if (baselines) {
    for (auto& contestant :
         contestants_beside(*baselines, inputs, answer, baseline_out.data(), &result)) {
      contestants.push_back(std::move(contestant));
    }
  }
  const auto timings =
      run_contest(contestants, steps.count(), {settings.repetitions, settings.min_seconds});
  result.steady = timings[0].divided_by(setting.layers);
  result.baselines.assign(timings.begin() + 1, timings.end());
  if (beside.given()) result.baselines.push_back(beside.timing_of(sizes));
  if (settings.nodes) result.nodes = trace_step([&] { steps.capture_and_replay(); });
  return result;
}

std::vector<Case> cases_of(const cli::BenchSettings& settings) {
  std::vector<Case> cases;
  for (const int heads : settings.heads) {
    for (const int batch : settings.batches) {
      for (const int compressed : settings.compressed)
        cases.push_back({heads, batch, settings.queries, settings.window, compressed,
                         settings.kinds, settings.ragged});
    }
  }
  return cases;
}

}  // namespace
}  // namespace steady::bench

int steady::cli::run_bench(const BenchSettings& settings) {
  using namespace steady::bench;
  const Beside beside = settings.beside.empty() ? Beside() : Beside(settings.beside);
  const steady_backend_info backend = backend_named(settings.backend);
  if (settings.nodes && is_on_host(backend.backend)) {
    throw std::runtime_error(
        std::string("--nodes traces the kernels of a device; the backend is ") + backend.name +
        ", on the host");
  }
  std::ofstream file;
  if (!settings.save.empty()) {
    file.open(settings.save);
    if (!file) throw std::runtime_error(settings.save + ": cannot be written");
  }
  ProgressLine progress;
  progress.show("measuring the roofs of this machine");
  const support::Roof roof = support::measure_roof(backend.backend);
  const int threads = settings.threads > 0 ? settings.threads : support::usable_cores();
  const Setting setting = {backend, threads, layers_of(settings, backend.backend), roof};
  std::vector<Result> results;
  try {
    for (const Case& sizes : cases_of(settings)) {
      progress.show("case " + case_text(sizes));
      results.push_back(measure(settings, setting, beside, sizes));
      progress.clear();
      if (settings.json) print_json_line(setting, results.back(), std::cout);
      if (file.is_open()) print_json_line(setting, results.back(), file);
    }
  } catch (const WrongAnswer& wrong) {
    progress.clear();
    std::cerr << "steady: " << wrong.what() << "\n";
    return kRefusedOrFailed;
  }
  progress.clear();
  if (file.is_open() && !file) throw std::runtime_error(settings.save + ": could not be written");
  if (!settings.json) print_table(setting, results);
  return kAllRight;
}
