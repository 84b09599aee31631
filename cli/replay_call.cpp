// SPDX-License-Identifier: Apache-2.0
// Steps replayed and run eagerly in, their times and everything that is wrong with them out.
#include "cli/replay_call.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "cli/backends.hpp"
#include "cli/layered_step.hpp"
#include "cli/oracle.hpp"
#include "cli/step_inputs.hpp"
#include "steady/steady.hpp"
#include "support/compare.hpp"
#include "support/text.hpp"

namespace steady::cli {
namespace {

using support::format;
using support::RecordedCall;

constexpr double kOutLimit = 2.5e-3;     // against exact answers
constexpr double kRecordedLimit = 5e-3;  // against answers with an error of their own
constexpr double kLseLimit = 1e-4;
constexpr uint8_t kReplayedPattern = 0xFF;  // a NaN in bf16 and in float32
constexpr uint8_t kEagerPattern = 0x7F;     // large and finite in both

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

steady_options engine_options(const ReplaySettings& settings) {
  auto options = make<steady_options>();
  options.backend = settings.backend;
  options.threads = settings.threads;
  options.checked = settings.checked;
  return options;
}

class Replay {
 public:
  Replay(const RecordedCall& call, const ReplaySettings& settings, const support::Roof& roof,
         ReplayResult* result)
      : call_(call),
        settings_(settings),
        roof_(roof),
        result_(*result),
        variations_(call, settings.layers, settings.checked),
        engine_(call.shape, engine_options(settings)),
        eager_engine_(call.shape, engine_options(settings)),
        stream_(engine_),
        workspace_(engine_),
        eager_workspace_(eager_engine_),
        step_(engine_, call, settings.layers, stream_),
        replayed_(engine_, call, settings.layers, kReplayedPattern),
        eager_(eager_engine_, call, settings.layers, kEagerPattern),
        oracle_(call),
        counted_(is_on_host(engine_.backend()) ? support::CountedThreads::kAll
                                               : support::CountedThreads::kCaller) {}

  void capture() {
    graph_ =
        engine_.capture(stream_, [this] { step_.run(engine_, workspace_, replayed_, stream_); });
    captured_addresses_ = step_.addresses(workspace_, replayed_);
  }

  void run_step(int number) {
    number_ = number;
    variations_.make(number, &inputs_);
    step_.load(inputs_, stream_);
    replayed_.prefill(stream_);
    stream_.wait();
    replay();
    replayed_.download(stream_);
    if (settings_.checked) check_report();
    stream_.wait();
    run_eagerly();

    check_against_eager();
    if (number == 0) {
      check_against_recorded();
    } else {
      check_against_oracle(number % settings_.layers);
    }
  }

  void finish() {
    const auto addresses = step_.addresses(workspace_, replayed_);
    for (size_t i = 0; i < addresses.size(); ++i)
      result_.addresses_moved += addresses[i] != captured_addresses_[i];
    const auto& [allocations, frees] = result_.allocations;
    if (result_.addresses_moved > 0)
      fail(format("%lld addresses moved", static_cast<long long>(result_.addresses_moved)));
    if (allocations > 0 || frees > 0)
      fail(format("the replays allocated %lld times and freed %lld times",
                  static_cast<long long>(allocations), static_cast<long long>(frees)));
    result_.step_us = median(step_us_);
    result_.layer_us = result_.step_us / settings_.layers;
    result_.cache_gb_per_s = median(gb_per_s_);
    result_.roof_percent = median(roof_percent_);
    result_.finished = true;
  }

 private:
  void fail(std::string sentence) { result_.failures.push_back(std::move(sentence)); }

  void replay() {
    const support::AllocationScope allocations(counted_);
    const auto begin = std::chrono::steady_clock::now();
    graph_->replay(stream_);
    stream_.wait();
    const auto end = std::chrono::steady_clock::now();
    const support::AllocationCount count = allocations.count();
    result_.allocations.allocations += count.allocations;
    result_.allocations.frees += count.frees;
    const double seconds = std::chrono::duration<double>(end - begin).count();
    const double flop = inputs_.layer_flop * settings_.layers;
    const double bytes = inputs_.layer_unique_bytes * settings_.layers;
    step_us_.push_back(seconds * 1e6);
    gb_per_s_.push_back(bytes / seconds / 1e9);
    roof_percent_.push_back(100 * roof_.seconds(flop, bytes) / seconds);
  }

  void run_eagerly() {
    eager_.prefill(nullptr);
    step_.run(eager_engine_, eager_workspace_, eager_, nullptr);
    eager_.download(nullptr);
    check(steady_stream_wait(eager_engine_.get(), nullptr));
  }

  void check_against_eager() {
    const auto same_bits = [](auto a, auto b) {
      return std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
    };
    for (int layer = 0; layer < settings_.layers; ++layer) {
      if (!same_bits(replayed_.out(layer), eager_.out(layer)) ||
          !same_bits(replayed_.lse(layer), eager_.lse(layer))) {
        result_.replay_equals_eager = false;
        fail(format("step %d, layer %d: replayed and eager answers are not the same bits", number_,
                    layer));
      }
      if (!replayed_.guards_intact(layer) || !eager_.guards_intact(layer))
        fail(format("step %d, layer %d: something was written behind an answer", number_, layer));
    }
  }

  void check_against_recorded() {
    for (int layer = 0; layer < settings_.layers; ++layer) {
      check_layer(layer, "the exact answer", std::span<const float>(call_.out_exact),
                  call_.lse_exact, kOutLimit);
      const double error = support::relative_error(replayed_.out(layer),
                                                   std::span<const uint16_t>(call_.out_recorded));
      const double lse_error = support::lse_error(replayed_.lse(layer), call_.lse_recorded);
      judge(layer, "the recorded answer", error, kRecordedLimit, lse_error);
    }
  }

  void check_against_oracle(int layer) {
    const OracleAnswer& answer = oracle_.answer(inputs_, layer);
    check_layer(layer, "the oracle's answer", std::span<const uint16_t>(answer.out), answer.lse,
                kOutLimit);
  }

  template <class T>
  void check_layer(int layer, const char* whose, std::span<const T> out, std::span<const float> lse,
                   double limit) {
    const double out_error = support::relative_error(replayed_.out(layer), out);
    const double lse_error = support::lse_error(replayed_.lse(layer), lse);
    result_.worst_out_error = std::max(result_.worst_out_error, out_error);
    result_.worst_lse_error = std::max(result_.worst_lse_error, lse_error);
    judge(layer, whose, out_error, limit, lse_error);
  }

  void judge(int layer, const char* whose, double out_error, double out_limit, double lse_error) {
    if (!(out_error < out_limit))
      fail(format("step %d, layer %d: out is %.2e from %s, the limit is %.1e", number_, layer,
                  out_error, whose, out_limit));
    if (!(lse_error < kLseLimit))
      fail(format("step %d, layer %d: lse is %.2e from %s, the limit is %.1e", number_, layer,
                  lse_error, whose, kLseLimit));
  }

  void check_report() {
    const steady_report report = engine_.report(workspace_, stream_);
    tally(report.negative_length, "lengths below 0", inputs_.faults.negative_lengths,
          &result_.negative_length);
    tally(report.long_length, "lengths above the width", inputs_.faults.long_lengths,
          &result_.long_length);
    tally(report.stray_slot, "stray slots", inputs_.faults.stray_slots * settings_.layers,
          &result_.stray_slot);
  }

  void tally(const steady_fault& fault, const char* what, int64_t expected, FaultTally* tally) {
    if (fault.count != expected)
      fail(format("step %d: %lld %s reported, but %lld were there", number_,
                  static_cast<long long>(fault.count), what, static_cast<long long>(expected)));
    if (fault.count > 0 && tally->count == 0) {
      tally->first_step = number_;
      tally->first = fault;
    }
    tally->count += fault.count;
  }

  const RecordedCall& call_;
  const ReplaySettings& settings_;
  const support::Roof& roof_;
  ReplayResult& result_;
  StepVariations variations_;
  Engine engine_, eager_engine_;
  Stream stream_;
  Workspace workspace_, eager_workspace_;
  LayeredStep step_;
  AnswerBlock replayed_, eager_;
  Oracle oracle_;
  const support::CountedThreads counted_;
  std::optional<Graph> graph_;
  std::vector<const void*> captured_addresses_;

  int number_ = 0;  ///< of the current step
  StepInputs inputs_;
  std::vector<double> step_us_, gb_per_s_, roof_percent_;
};

}  // namespace

void replay_call(const RecordedCall& call, const ReplaySettings& settings,
                 const support::Roof& roof, const std::function<void(int)>& on_step,
                 ReplayResult* result) {
  Replay replay(call, settings, roof, result);
  replay.capture();
  for (int number = 0; number < settings.steps; ++number) {
    on_step(number);
    replay.run_step(number);
  }
  replay.finish();
}

}  // namespace steady::cli
