// SPDX-License-Identifier: Apache-2.0
// Steps and layers with one thing wrong go in; a sentence that names it comes out, and neither the
// outputs nor the workspace have changed.
#include <cstring>
#include <limits>

#include "tests/api/failure.hpp"
#include "tests/support/engine.hpp"

namespace steady::test {
namespace {

constexpr int64_t kFar = std::numeric_limits<int64_t>::max();

CaseSpec step_spec() {
  CaseSpec spec;
  spec.heads = 3;
  spec.queries = 2;
  spec.batch = 3;
  spec.max_batch = 5;
  spec.window = {70, STEADY_CACHE_FP8, 16};
  spec.compressed = {{33, STEADY_CACHE_BF16, 3}, {}};
  spec.loose = false;
  return spec;
}

template <typename T>
const T* moved(const T* pointer, int bytes) {
  return reinterpret_cast<const T*>(reinterpret_cast<const char*>(pointer) + bytes);
}

class StepMisuse : public OnEveryBackend {
 protected:
  StepMisuse() : c(step_spec()), engine(c.shape(), backend()), caller(engine) {
    workspace = caller.workspace();
  }

  void SetUp() override {
    OnEveryBackend::SetUp();
    if (IsSkipped()) return;
    EXPECT_TRUE(ok(plan()));
  }

  steady_status plan() const {
    return waited(steady_plan(engine.get(), workspace, &c.step, nullptr));
  }
  steady_status decode() const {
    return waited(steady_decode(engine.get(), workspace, &c.step, &c.layers[0], nullptr));
  }
  // A device's work is done when its stream is.
  steady_status waited(steady_status status) const {
    return status == STEADY_OK ? steady_stream_wait(engine.get(), nullptr) : status;
  }

  // Neither plan nor decode runs; what `broken` refers to is as before afterwards.
  template <typename T, typename Call>
  void expect_refused_by(Call call, T& field, const std::vector<T>& values,
                         const std::vector<std::string>& words) {
    const T right = field;
    const auto* const bytes = static_cast<const uint8_t*>(caller.workspace().data);
    const std::vector<uint8_t> before(bytes, bytes + caller.workspace().bytes);
    for (const T& value : values) {
      field = value;
      EXPECT_TRUE(invalid(call(), words)) << value;
    }
    field = right;
    EXPECT_EQ(std::memcmp(bytes, before.data(), before.size()), 0) << "the workspace has changed";
    EXPECT_TRUE(c.outputs_untouched());
  }

  template <typename T>
  void expect_plan_refused(T& field, const std::vector<T>& values,
                           const std::vector<std::string>& words) {
    expect_refused_by([this] { return plan(); }, field, values, words);
  }

  template <typename T>
  void expect_decode_refused(T& field, const std::vector<T>& values,
                             const std::vector<std::string>& words) {
    expect_refused_by([this] { return decode(); }, field, values, words);
  }

  template <typename T>
  void expect_both_refused(T& field, const std::vector<T>& values,
                           const std::vector<std::string>& words) {
    expect_plan_refused(field, values, words);
    expect_decode_refused(field, values, words);
  }

  steady_layer& layer() { return c.layers[0]; }

  HostileCase c;
  Engine engine;
  Caller caller;
  steady_workspace workspace;
};

INSTANTIATE_TEST_SUITE_P(, StepMisuse, kEveryBackend, backend_name);

TEST_P(StepMisuse, NothingWrongIsTaken) {
  ASSERT_TRUE(ok(decode()));
  EXPECT_TRUE(close_to(c.outputs(), c.answer()));
}

TEST_P(StepMisuse, NullPointers) {
  EXPECT_TRUE(invalid(steady_plan(nullptr, workspace, &c.step, nullptr), {"engine", "NULL"}));
  EXPECT_TRUE(invalid(steady_plan(engine.get(), workspace, nullptr, nullptr), {"step", "NULL"}));
  EXPECT_TRUE(
      invalid(steady_decode(nullptr, workspace, &c.step, &layer(), nullptr), {"engine", "NULL"}));
  EXPECT_TRUE(invalid(steady_decode(engine.get(), workspace, nullptr, &layer(), nullptr),
                      {"step", "NULL"}));
  EXPECT_TRUE(invalid(steady_decode(engine.get(), workspace, &c.step, nullptr, nullptr),
                      {"layer", "NULL"}));
  EXPECT_TRUE(c.outputs_untouched());
}

TEST_P(StepMisuse, StructSizes) {
  expect_both_refused<size_t>(c.step.struct_size, {0, sizeof(steady_step) - 8},
                              {"steady_step", "struct_size", std::to_string(sizeof(steady_step))});
  expect_decode_refused<size_t>(
      layer().struct_size, {0, sizeof(steady_layer) - 8},
      {"steady_layer", "struct_size", std::to_string(sizeof(steady_layer))});
}

TEST_P(StepMisuse, Workspace) {
  char* const data = static_cast<char*>(workspace.data);
  expect_both_refused<void*>(workspace.data, {nullptr}, {"workspace", "data", "NULL"});
  expect_both_refused<void*>(workspace.data, {data + 1, data + 64, data + 128},
                             {"workspace", "data", "256"});
  expect_both_refused<size_t>(
      workspace.bytes, {0, 1, workspace.bytes - 1},
      {"workspace", "bytes", std::to_string(steady_workspace_bytes(engine.get()))});
}

TEST_P(StepMisuse, Batch) {
  expect_both_refused<int32_t>(c.step.batch, {0, -1, 6, std::numeric_limits<int32_t>::max()},
                               {"batch", "1", "5"});
}

TEST_P(StepMisuse, MisalignedLengths) {
  expect_both_refused(c.step.window.values, {moved(c.step.window.values, 1)},
                      {"window", "values", "4"});
  expect_both_refused(c.step.compressed[0].values, {moved(c.step.compressed[0].values, 2)},
                      {"compressed[0]", "values", "4"});
}

TEST_P(StepMisuse, DecodeBeforePlan) {
  SKIP_ON_DEVICES("a device answers NaN without a plan; see CudaDevice.WithoutAPlanAnswersAreNaN");
  const Caller fresh(engine);
  EXPECT_TRUE(failed(steady_decode(engine.get(), fresh.workspace(), &c.step, &layer(), nullptr),
                     STEADY_NOT_PLANNED, {"workspace", "plan"}));
  EXPECT_TRUE(c.outputs_untouched());
}

TEST_P(StepMisuse, DecodeAfterTheWorkspaceWasOverwritten) {
  SKIP_ON_DEVICES("a device answers NaN without a plan; see CudaDevice.WithoutAPlanAnswersAreNaN");
  std::memset(workspace.data, 0, workspace.bytes);
  EXPECT_TRUE(failed(decode(), STEADY_NOT_PLANNED, {"workspace", "plan"}));
  EXPECT_TRUE(c.outputs_untouched());
}

TEST_P(StepMisuse, DecodeWithThePlanOfAnotherEngine) {
  SKIP_ON_DEVICES("a device answers NaN without a plan; see CudaDevice.WithoutAPlanAnswersAreNaN");
  const Engine twin(c.shape(), backend());
  EXPECT_TRUE(failed(steady_decode(twin.get(), workspace, &c.step, &layer(), nullptr),
                     STEADY_NOT_PLANNED, {"plan", "engine"}));
  EXPECT_TRUE(c.outputs_untouched());
}

TEST_P(StepMisuse, DecodeOfAnotherBatchThanPlanned) {
  SKIP_ON_DEVICES("a device answers NaN without a plan; see CudaDevice.WithoutAPlanAnswersAreNaN");
  for (const int32_t batch : {1, 2, 4, 5}) {
    c.step.batch = batch;
    EXPECT_TRUE(failed(decode(), STEADY_NOT_PLANNED, {"batch", std::to_string(batch), "3"}));
  }
  EXPECT_TRUE(c.outputs_untouched());
}

TEST_P(StepMisuse, Kind) {
  expect_decode_refused<int32_t>(layer().kind, {-1, 2, 8}, {"kind", "0", "1"});
}

TEST_P(StepMisuse, QueriesAndOutputs) {
  expect_decode_refused(layer().q, {nullptr}, {"q", "NULL"});
  expect_decode_refused(layer().q, {moved(layer().q, 1)}, {"q", "2"});
  expect_decode_refused(layer().out, {nullptr}, {"out", "NULL"});
  expect_decode_refused(layer().out, {const_cast<uint16_t*>(moved(layer().out, 1))}, {"out", "2"});
  expect_decode_refused(layer().lse, {const_cast<float*>(moved(layer().lse, 2))}, {"lse", "4"});
  expect_decode_refused(layer().sink, {moved(layer().sink, 2)}, {"sink", "4"});
}

TEST_P(StepMisuse, Pages) {
  expect_decode_refused<const void*>(layer().window.pages, {nullptr}, {"window", "pages", "NULL"});
  expect_decode_refused<const void*>(layer().compressed.pages, {nullptr},
                                     {"compressed", "pages", "NULL"});
  expect_decode_refused<const void*>(layer().compressed.pages,
                                     {moved(static_cast<const char*>(layer().compressed.pages), 1)},
                                     {"compressed", "pages", "2"});
  expect_decode_refused<int64_t>(layer().window.page_count, {-1, -kFar},
                                 {"window", "page_count", "0"});
}

TEST_P(StepMisuse, PageStrides) {
  const int64_t fp8 = steady_page_bytes(STEADY_CACHE_FP8, 16);
  const int64_t bf16 = steady_page_bytes(STEADY_CACHE_BF16, 3);
  expect_decode_refused<int64_t>(layer().window.page_stride_bytes, {0, -1, fp8 - 1, -fp8, -kFar},
                                 {"window", "page_stride_bytes", std::to_string(fp8)});
  expect_decode_refused<int64_t>(layer().compressed.page_stride_bytes, {bf16 - 2},
                                 {"compressed", "page_stride_bytes", std::to_string(bf16)});
  expect_decode_refused<int64_t>(layer().compressed.page_stride_bytes, {bf16 + 1},
                                 {"compressed", "page_stride_bytes", "even"});
  expect_decode_refused<int64_t>(layer().window.page_stride_bytes, {kFar},
                                 {"window", "page_stride_bytes"});
}

TEST_P(StepMisuse, PagesBeyondThe64BitAddresses) {
  expect_decode_refused<int64_t>(layer().window.page_count, {kFar}, {"window", "page_count"});
}

TEST_P(StepMisuse, Slots) {
  expect_decode_refused(layer().window.slots, {nullptr}, {"window", "slots", "NULL"});
  expect_decode_refused(layer().window.slots, {moved(layer().window.slots, 2)},
                        {"window", "slots", "4"});
  expect_decode_refused<int64_t>(layer().window.slots_stride, {1, 69, -70, -1, -kFar},
                                 {"window", "slots_stride", "70"});
}

TEST_P(StepMisuse, StridesThatLetOutputsOverlap) {
  const auto expect_refused = [this](steady_strides& strides, const std::string& name,
                                     const std::vector<steady_strides>& values) {
    for (const steady_strides& value : values) {
      strides = value;
      EXPECT_TRUE(invalid(decode(), {name}))
          << value.batch << ' ' << value.query << ' ' << value.head;
    }
    strides = {};
    EXPECT_TRUE(c.outputs_untouched());
  };
  expect_refused(layer().out_strides, "out_strides",
                 {{3072, 1536, 511},
                  {3072, 1535, 512},
                  {3071, 1536, 512},
                  {512, 512, 512},
                  {0, 1536, 512},
                  {3072, 0, 512},
                  {3072, 1536, 0},
                  {1536, 3072, 512}});
  expect_refused(layer().lse_strides, "lse_strides", {{6, 3, 0}, {6, 2, 1}, {5, 3, 1}, {1, 1, 1}});
}

TEST_P(StepMisuse, StridesBelow0OrBeyondAllMemory) {
  for (steady_strides* strides : {&layer().q_strides, &layer().out_strides, &layer().lse_strides}) {
    for (const int64_t stride : {int64_t{-1}, int64_t{-512}, -kFar, kFar}) {
      *strides = {stride, 1536, 512};
      EXPECT_TRUE(invalid(decode(), {"strides"})) << stride;
      *strides = {3072, stride, 512};
      EXPECT_TRUE(invalid(decode(), {"strides"})) << stride;
      *strides = {3072, 1536, stride};
      EXPECT_TRUE(invalid(decode(), {"strides"})) << stride;
      *strides = {};
    }
  }
  EXPECT_TRUE(c.outputs_untouched());
}

TEST_P(StepMisuse, NoneIsWhatAnIgnoredPoolHolds) {
  // Kind 1 has no compressed pool.
  layer().kind = 1;
  layer().compressed = {moved("", 1), -7, -7, moved(layer().window.slots, 1), -7};
  ASSERT_TRUE(ok(decode()));
  EXPECT_TRUE(close_to(c.outputs(), c.answer()));
}

TEST_P(StepMisuse, NoneIsTheStrideOfADimensionOfOne) {
  CaseSpec spec = step_spec();
  spec.batch = spec.queries = 1;
  HostileCase one(spec);
  one.layers[0].q_strides = one.layers[0].out_strides = {0, 0, 512};
  one.layers[0].lse_strides = {0, 0, 1};
  expect_right(one, backend());
}

TEST_P(StepMisuse, NoneIsAQueryThatAllRequestsShare) {
  layer().q_strides = {0, 1536, 512};
  c.refill(4);
  ASSERT_TRUE(ok(plan()));
  for (int64_t i = 0; i < 3072; ++i) c.q()[i] = 0x3C00;
  ASSERT_TRUE(ok(decode()));
  EXPECT_TRUE(close_to(c.outputs(), c.answer()));
}

}  // namespace
}  // namespace steady::test
