// SPDX-License-Identifier: Apache-2.0
// Recorded calls of FlashMLA go in; the answers agree with theirs and with the exact ones.
#include <algorithm>
#include <filesystem>
#include <optional>
#include <vector>

#include "support/compare.hpp"
#include "support/recorded_call.hpp"
#include "tests/support/engine.hpp"

namespace steady::test {
namespace {

using support::RecordedCall;
using support::RecordedScope;

// A copy where the backend can read it.
template <typename T>
OddBuffer<T> common(const std::vector<T>& values) {
  OddBuffer<T> copy(static_cast<int64_t>(values.size()));
  std::copy(values.begin(), values.end(), copy.begin());
  return copy;
}

struct CommonScope {
  explicit CommonScope(const RecordedScope& scope)
      : pages(common(scope.pages)),
        slots(common(scope.slots)),
        lengths(common(scope.lengths)),
        pool{pages.data(), scope.page_stride_bytes, scope.page_count, slots.data(), 0} {}

  OddBuffer<uint8_t> pages;
  OddBuffer<int32_t> slots, lengths;
  steady_pool pool;
};

struct Name {
  template <typename Info>
  std::string operator()(const Info& info) const {
    const auto& [backend, file] = info.param;
    return backend_name({backend, 0}) + "_" + std::filesystem::path(file).stem().string();
  }
};

std::vector<std::string> recorded_files() {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(STEADY_RECORDED_CALLS))
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path().string());
  std::sort(files.begin(), files.end());
  return files;
}

class Recorded : public testing::TestWithParam<std::tuple<steady_backend, std::string>> {};

INSTANTIATE_TEST_SUITE_P(, Recorded,
                         testing::Combine(kEveryBackend, testing::ValuesIn(recorded_files())),
                         Name());

TEST_P(Recorded, AnswersAreWithinBf16RoundingOfTheExactOnes) {
  const auto& [backend, path] = GetParam();
  if (const auto info = info_of(backend); info.usable == 0) {
    GTEST_SKIP() << info.name << ": " << info.detail;
  }
  support::SafetensorsFile file(path);
  const RecordedCall call = support::load_recorded_call(file);

  steady_step step = {};
  step.struct_size = sizeof(step);
  step.batch = call.batch();
  const CommonScope window(call.window);
  const OddBuffer<uint16_t> q = common(call.q);
  const OddBuffer<float> sinks = common(call.sinks);
  std::optional<CommonScope> compressed;
  step.window.values = window.lengths.data();
  steady_layer layer = {};
  layer.struct_size = sizeof(layer);
  layer.q = q.data();
  layer.window = window.pool;
  if (call.compressed) {
    compressed.emplace(*call.compressed);
    step.compressed[0].values = compressed->lengths.data();
    layer.compressed = compressed->pool;
  }
  layer.sink = call.sinks.empty() ? nullptr : sinks.data();
  const OddBuffer<uint16_t> out(static_cast<int64_t>(call.out_exact.size()));
  const OddBuffer<float> lse(static_cast<int64_t>(call.lse_exact.size()));
  layer.out = out.data();
  layer.lse = lse.data();
  const Engine engine(call.shape, backend);
  const Caller caller(engine);
  ASSERT_TRUE(ok(steady_plan(engine.get(), caller.workspace(), &step, caller.stream())));
  ASSERT_TRUE(ok(steady_decode(engine.get(), caller.workspace(), &step, &layer, caller.stream())));
  ASSERT_TRUE(ok(steady_stream_wait(engine.get(), caller.stream())));

  const std::vector<float> answered_lse(lse.begin(), lse.end());
  const auto distance = [&](const auto& answer) {
    return support::relative_error(std::span<const uint16_t>(out.begin(), out.end()),
                                   std::span(answer));
  };
  EXPECT_LT(distance(call.out_exact), 2.5e-3);
  EXPECT_LT(distance(call.out_recorded), 2.5e-3);
  EXPECT_LT(support::lse_error(answered_lse, call.lse_exact), 1e-4);
  EXPECT_LT(support::lse_error(answered_lse, call.lse_recorded), 1e-4);
}

}  // namespace
}  // namespace steady::test
