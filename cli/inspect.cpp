// SPDX-License-Identifier: Apache-2.0
// A recorded call in, its tensors, its shape and histograms of its scales and lengths out.
#include <algorithm>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/terminal.hpp"
#include "cli/verbs.hpp"
#include "support/recorded_call.hpp"
#include "support/text.hpp"

namespace steady::cli {
namespace {

using support::format;
using support::RecordedCall;
using support::RecordedScope;
using Json = nlohmann::ordered_json;
using Histogram = std::map<int, int64_t>;  // how often each value occurs

constexpr const char* kFooter =
    "Scales are ue8m0 bytes b, worth 2^(b - 127), of the tokens that the call reads.\n"
    "Examples:\n"
    "  steady inspect call.safetensors\n"
    "  steady inspect --json call.safetensors | jq .scopes[0].slots\n"
    "Exit codes: 0 all right, 1 the file was refused, 2 wrong usage.\n";

/// All that is told of one pool.
struct ScopeSummary {
  std::string name;
  const RecordedScope* scope;
  support::SlotCensus slots;
  Histogram scales, lengths;
};

Histogram count_scales(const RecordedScope& scope, const std::vector<int32_t>& slots) {
  Histogram scales;
  for (const int32_t slot : slots) {
    const int32_t page = slot / scope.shape.page_tokens, token = slot % scope.shape.page_tokens;
    const uint8_t* bytes = scope.pages.data() + page * scope.page_stride_bytes +
                           steady_fp8_scales_offset(scope.shape.page_tokens, token);
    for (int i = 0; i < STEADY_FP8_SCALES; ++i) ++scales[bytes[i]];
  }
  return scales;
}

std::vector<ScopeSummary> summarise(const RecordedCall& call) {
  std::vector<ScopeSummary> summaries;
  for (const RecordedScope* scope : call.scopes()) {
    ScopeSummary summary;
    summary.name = summaries.empty() ? "window" : "compressed";
    summary.scope = scope;
    summary.slots = support::count_slots(*scope, call.shape.queries, scope->slots, scope->lengths);
    summary.scales = count_scales(*scope, summary.slots.read);
    for (const int32_t length : scope->lengths) ++summary.lengths[length];
    summaries.push_back(std::move(summary));
  }
  return summaries;
}

/// One bar for each value, or for each run of values where they are many.
void print_histogram(const char* title, const Histogram& histogram) {
  constexpr int kMostBars = 24, kLongestBar = 40;
  if (histogram.empty()) return;
  const int low = histogram.begin()->first, high = histogram.rbegin()->first;
  const int each = (high - low) / kMostBars + 1;
  Histogram bars;
  int64_t longest = 0;
  for (const auto& [value, count] : histogram) {
    int64_t& bar = bars[(value - low) / each];
    longest = std::max(longest, bar += count);
  }
  std::cout << "  " << title << "\n";
  for (const auto& [bar, count] : bars) {
    const int begin = low + bar * each;
    const std::string label = each == 1 ? std::to_string(begin)
                                        : format("%d-%d", begin, std::min(begin + each - 1, high));
    const auto length = static_cast<size_t>(std::max<int64_t>(1, count * kLongestBar / longest));
    std::cout << format("    %11s %8lld %s\n", label.c_str(), static_cast<long long>(count),
                        std::string(length, '#').c_str());
  }
}

void print_text(const support::SafetensorsFile& file, const RecordedCall& call) {
  std::cout << strong(file.path()) << "\n\ntensors:\n";
  support::TextTable table("llr", {"  name", "type and shape", "bytes"});
  for (const auto& [name, tensor] : file.tensors())
    table.add({"  " + name, describe(tensor), std::to_string(tensor.bytes)});
  for (const std::string& line : table.lines()) std::cout << line << "\n";
  std::cout << "\nmetadata:\n";
  for (const auto& [key, value] : file.metadata())
    std::cout << "  " << support::escaped(key) << ": " << support::escaped(value) << "\n";

  const steady_shape& shape = call.shape;
  std::cout << format("\nshape: batch %d, queries %d, heads %d, softmax scale %.9g, %s\n",
                      call.batch(), shape.queries, shape.heads, shape.softmax_scale,
                      call.sinks.empty() ? "no sink" : "a sink for each head");
  for (const ScopeSummary& summary : summarise(call)) {
    const RecordedScope& scope = *summary.scope;
    std::cout << "\n"
              << strong(summary.name)
              << format(": width %d, %lld pages of %d tokens, %lld bytes from page to page\n",
                        scope.shape.max_tokens, static_cast<long long>(scope.page_count),
                        scope.shape.page_tokens, static_cast<long long>(scope.page_stride_bytes))
              << format(
                     "  slots: %lld valid (%zu different), %lld are -1, %lld outside the pool, "
                     "%lld past the lengths\n",
                     static_cast<long long>(summary.slots.valid), summary.slots.read.size(),
                     static_cast<long long>(summary.slots.none),
                     static_cast<long long>(summary.slots.stray),
                     static_cast<long long>(summary.slots.past_length));
    print_histogram("lengths", summary.lengths);
    print_histogram("scale bytes of the tokens read", summary.scales);
  }
}

Json histogram_json(const Histogram& histogram) {
  Json json = Json::object();
  for (const auto& [value, count] : histogram) json[std::to_string(value)] = count;
  return json;
}

void print_json(const support::SafetensorsFile& file, const RecordedCall& call) {
  Json document = {{"file", file.path()}, {"tensors", Json::object()}};
  for (const auto& [name, tensor] : file.tensors())
    document["tensors"][name] = {{"dtype", tensor.dtype}, {"shape", tensor.shape}};
  document["metadata"] = file.metadata();
  document["shape"] = {{"batch", call.batch()},
                       {"queries", call.shape.queries},
                       {"heads", call.shape.heads},
                       {"softmax_scale", call.shape.softmax_scale},
                       {"sink", !call.sinks.empty()}};
  document["scopes"] = Json::array();
  for (const ScopeSummary& summary : summarise(call)) {
    document["scopes"].push_back({{"name", summary.name},
                                  {"width", summary.scope->shape.max_tokens},
                                  {"page_tokens", summary.scope->shape.page_tokens},
                                  {"page_count", summary.scope->page_count},
                                  {"page_stride_bytes", summary.scope->page_stride_bytes},
                                  {"slots",
                                   {{"valid", summary.slots.valid},
                                    {"different", summary.slots.read.size()},
                                    {"none", summary.slots.none},
                                    {"outside", summary.slots.stray},
                                    {"past_length", summary.slots.past_length}}},
                                  {"lengths", histogram_json(summary.lengths)},
                                  {"scale_bytes", histogram_json(summary.scales)}});
  }
  std::cout << document.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
}

}  // namespace

RunVerb add_inspect(CLI::App& verb) {
  struct Options {
    std::string path;
    bool json = false;
  };
  const auto options = std::make_shared<Options>();
  verb.add_option("FILE", options->path, "A recorded call (safetensors)")->required();
  verb.add_flag("--json", options->json, "Print one JSON document");
  verb.footer(kFooter);
  return [options] {
    try {
      support::SafetensorsFile file(options->path);
      const RecordedCall call = support::load_recorded_call(file);
      (options->json ? print_json : print_text)(file, call);
      return kAllRight;
    } catch (const support::FileError& error) {
      std::cerr << "steady: " << error.what() << "\n";
      return kRefusedOrFailed;
    }
  };
}

}  // namespace steady::cli
