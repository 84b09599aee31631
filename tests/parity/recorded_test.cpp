// SPDX-License-Identifier: Apache-2.0
// Recorded calls of FlashMLA go in; the answers agree with theirs and with the exact ones.
#include <algorithm>
#include <filesystem>

#include "support/compare.hpp"
#include "support/recorded_call.hpp"
#include "tests/support/engine.hpp"

namespace steady::test {
namespace {

using support::RecordedCall;
using support::RecordedScope;

steady_pool pool_of(const RecordedScope& scope) {
  return {scope.pages.data(), scope.page_stride_bytes, scope.page_count, scope.slots.data(), 0};
}

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
  support::SafetensorsFile file(path);
  const RecordedCall call = support::load_recorded_call(file);

  steady_step step = {};
  step.struct_size = sizeof(step);
  step.batch = call.batch();
  step.window.values = call.window.lengths.data();
  steady_layer layer = {};
  layer.struct_size = sizeof(layer);
  layer.q = call.q.data();
  layer.window = pool_of(call.window);
  if (call.compressed) {
    step.compressed[0].values = call.compressed->lengths.data();
    layer.compressed = pool_of(*call.compressed);
  }
  layer.sink = call.sinks.empty() ? nullptr : call.sinks.data();
  std::vector<uint16_t> out(call.out_exact.size());
  std::vector<float> lse(call.lse_exact.size());
  layer.out = out.data();
  layer.lse = lse.data();
  const Engine engine(call.shape, backend);
  const Caller caller(engine);
  ASSERT_TRUE(ok(steady_plan(engine.get(), caller.workspace(), &step, caller.stream())));
  ASSERT_TRUE(ok(steady_decode(engine.get(), caller.workspace(), &step, &layer, caller.stream())));
  ASSERT_TRUE(ok(steady_stream_wait(engine.get(), caller.stream())));

  const auto distance = [&](const auto& answer) {
    return support::relative_error(std::span(std::as_const(out)), std::span(answer));
  };
  EXPECT_LT(distance(call.out_exact), 2.5e-3);
  EXPECT_LT(distance(call.out_recorded), 2.5e-3);
  EXPECT_LT(support::lse_error(lse, call.lse_exact), 1e-4);
  EXPECT_LT(support::lse_error(lse, call.lse_recorded), 1e-4);
}

}  // namespace
}  // namespace steady::test
