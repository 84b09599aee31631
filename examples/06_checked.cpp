// SPDX-License-Identifier: Apache-2.0
// Hostile lengths and slots in; the answer that sound ones would give out, and from a checked
// engine a report of what was wrong, and where. Runs on a CPU, where device memory is any memory.
#include <cstdio>
#include <limits>
#include <vector>

#include "steady/steady.hpp"

namespace {

constexpr int kBatch = 3, kWidth = 4, kTokens = 8;
constexpr int32_t kMax = std::numeric_limits<int32_t>::max();

bool expect(const char* what, const steady_fault& fault, int64_t count, int32_t request,
            int32_t position, int32_t value) {
  std::printf("%-15s %lld times, first at request %d, position %d: %d\n", what,
              static_cast<long long>(fault.count), fault.request, fault.position, fault.value);
  return fault.count == count && fault.request == request && fault.position == position &&
         fault.value == value;
}

}  // namespace

int main() {
  auto shape = steady::make<steady_shape>();
  shape.heads = shape.queries = shape.kinds = 1;
  shape.max_batch = kBatch;
  shape.softmax_scale = 1;
  shape.window = {STEADY_CACHE_FP8, kTokens, kWidth};
  auto options = steady::make<steady_options>();
  options.backend = STEADY_CPU;
  options.checked = 1;
  const steady::Engine engine(shape, options);
  const steady::Workspace workspace(engine);

  std::vector<uint8_t> page(steady_page_bytes(STEADY_CACHE_FP8, kTokens));
  for (int32_t i = 0; i < kTokens; ++i) {
    const std::vector<float> values(STEADY_HEAD_DIM, static_cast<float>(1 + i));
    steady::check(steady_pack_token(STEADY_CACHE_FP8, values.data(), page.data(), kTokens, i));
  }
  const std::vector<uint16_t> q(kBatch * STEADY_HEAD_DIM);  // zeros: all tokens weigh the same

  const auto decode = [&](const std::vector<int32_t>& lengths, const std::vector<int32_t>& slots) {
    std::vector<uint16_t> out(q.size());
    auto step = steady::make<steady_step>();
    step.batch = kBatch;
    step.window.values = lengths.data();
    auto layer = steady::make<steady_layer>();
    layer.q = q.data();
    layer.out = out.data();
    layer.window = {page.data(), static_cast<int64_t>(page.size()), 1, slots.data(), 0};
    engine.plan(workspace, step);
    engine.decode(workspace, step, layer);
    return out;
  };

  // Requests ask for -7, 1,000 and 3 of 4 slots; kTokens and beyond, and below -1, are no tokens.
  const auto hostile = decode({-7, 1000, 3}, {0, 0, 0, 0, 3, kTokens, -1, kMax, 5, -kMax, 6, kMax});
  const steady_report report = engine.report(workspace);
  bool right = expect("negative length", report.negative_length, 1, 0, -1, -7);
  right &= expect("long length", report.long_length, 1, 1, -1, 1000);
  right &= expect("stray slot", report.stray_slot, 3, 1, 1, kTokens);

  const auto sound = decode({0, 4, 3}, {-1, -1, -1, -1, 3, -1, -1, -1, 5, -1, 6, -1});
  std::printf("the answer is %s\n", hostile == sound ? "that of sound input" : "ANOTHER");
  return right && hostile == sound ? 0 : 1;
}
