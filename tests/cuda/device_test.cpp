// SPDX-License-Identifier: Apache-2.0
// The CUDA backend's manners: capturable in the strictest mode, 64-bit addresses, answers as NaN
// without a plan, and errors of earlier work told apart from its own.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <vector>

#include "steady/steady.hpp"
#include "tests/cuda/device.hpp"
#include "tests/support/engine.hpp"

namespace steady::test {
namespace {

class CudaDevice : public OnDevice {
 protected:
  void SetUp() override {
    OnDevice::SetUp();
    set_row_tolerance(kRowToleranceOfBf16Products);
  }
};

CaseSpec two_scopes() {
  CaseSpec spec;
  spec.heads = 24;
  spec.batch = 5;
  spec.window = {128, STEADY_CACHE_FP8, 64};
  spec.compressed = {{3000, STEADY_CACHE_FP8, 64}};
  return spec;
}

/// Kernels, and memory that is set, but none that is allocated or copied.
void expect_only_kernels_and_sets(cudaGraph_t graph) {
  size_t count = 0;
  ASSERT_EQ(cudaGraphGetNodes(graph, nullptr, &count), cudaSuccess);
  std::vector<cudaGraphNode_t> nodes(count);
  ASSERT_EQ(cudaGraphGetNodes(graph, nodes.data(), &count), cudaSuccess);
  EXPECT_GT(count, 0u);
  for (const cudaGraphNode_t node : nodes) {
    cudaGraphNodeType type = cudaGraphNodeTypeEmpty;
    ASSERT_EQ(cudaGraphNodeGetType(node, &type), cudaSuccess);
    EXPECT_TRUE(type == cudaGraphNodeTypeKernel || type == cudaGraphNodeTypeMemset) << type;
  }
}

TEST_F(CudaDevice, PlanAndDecodeNeitherAllocateNorWait) {
  for (const int32_t checked : {0, 1}) {
    HostileCase c(two_scopes());
    const Engine engine(c.shape(), {sizeof(steady_options), STEADY_CUDA, 0, 0, checked});
    const Caller caller(engine);
    caller.run(c);
    // In this mode an allocation or a wait on any thread ends the capture with an error.
    const auto stream = static_cast<cudaStream_t>(caller.stream());
    ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
    EXPECT_TRUE(ok(steady_plan(engine.get(), caller.workspace(), &c.step, stream)));
    EXPECT_TRUE(ok(steady_decode(engine.get(), caller.workspace(), &c.step, &c.layers[0], stream)));
    cudaGraph_t graph = nullptr;
    ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    expect_only_kernels_and_sets(graph);
    cudaGraphExec_t ready = nullptr;
    ASSERT_EQ(cudaGraphInstantiate(&ready, graph, 0), cudaSuccess);
    for (uint64_t seed = 1; seed <= 5; ++seed) {
      c.refill(seed);
      ASSERT_EQ(cudaGraphLaunch(ready, stream), cudaSuccess);
      ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
      EXPECT_TRUE(close_to(c.outputs(), c.answer())) << seed;
    }
    cudaGraphExecDestroy(ready);
    cudaGraphDestroy(graph);
  }
}

TEST_F(CudaDevice, FindsTokensAtBothEndsOfADevicePoolBeyond4GiB) {
  constexpr int32_t kPageTokens = 64;
  const int64_t stride = steady_page_bytes(STEADY_CACHE_FP8, kPageTokens) + 64;
  const int64_t pages = (int64_t{5} << 30) / stride;
  CaseSpec spec;
  spec.heads = 8;
  spec.batch = 1;
  spec.window = {6, STEADY_CACHE_FP8, kPageTokens, Lengths::kAbsent};
  spec.window.hole_percent = 0;
  HostileCase c(spec);
  const steady::Engine engine(c.shape(), {sizeof(steady_options), STEADY_CUDA, 0, 0, 0});
  const steady::DeviceArray<uint8_t> pool(engine, static_cast<size_t>(pages * stride));
  ASSERT_EQ(cudaMemset(pool.data(), 0xff, pool.size()), cudaSuccess);
  // The same tokens as a small host pool has, spread over the borders of 2 and 4 GiB and both ends.
  const int64_t far[] = {0,
                         (int64_t{2} << 30) / stride,
                         (int64_t{2} << 30) / stride + 1,
                         (int64_t{4} << 30) / stride,
                         (int64_t{4} << 30) / stride + 1,
                         pages - 1};
  const Answer answer = c.answer();
  std::vector<int32_t> slots;
  for (int i = 0; i < 6; ++i) {
    const steady_pool& near_pool = c.layers[0].window;
    const int32_t slot = c.window_slots()[i];
    const uint8_t* page = static_cast<const uint8_t*>(near_pool.pages) +
                          slot / kPageTokens * near_pool.page_stride_bytes;
    engine.upload(pool.data() + far[i] * stride, page,
                  static_cast<size_t>(steady_page_bytes(STEADY_CACHE_FP8, kPageTokens)));
    slots.push_back(static_cast<int32_t>(far[i] * kPageTokens + slot % kPageTokens));
  }
  std::copy(slots.begin(), slots.end(), c.window_slots());
  c.layers[0].window.pages = pool.data();
  c.layers[0].window.page_stride_bytes = stride;
  c.layers[0].window.page_count = pages;
  const steady::Workspace workspace(engine);
  engine.plan(workspace, c.step);
  engine.decode(workspace, c.step, c.layers[0]);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_TRUE(close_to(c.outputs(), answer));
}

TEST_F(CudaDevice, EnginesOfOtherShapesDoNotDisturbOneAnother) {
  CaseSpec spec = two_scopes();
  spec.heads = 64;
  spec.batch = 200;  // for the largest group of heads
  spec.window.width = spec.compressed[0].width = 40;
  spec.compressed[0].format = STEADY_CACHE_BF16;  // takes more shared memory
  HostileCase first(spec);
  spec.compressed[0].format = STEADY_CACHE_FP8;
  HostileCase second(spec);
  const Engine first_engine(first.shape(), STEADY_CUDA);
  const Caller caller(first_engine);
  const Engine second_engine(second.shape(), STEADY_CUDA);
  caller.run(first);
  EXPECT_TRUE(close_to(first.outputs(), first.answer()));
  Caller(second_engine).run(second);
  EXPECT_TRUE(close_to(second.outputs(), second.answer()));
}

// Arrays in device memory of just their size, where memcheck sees the ends and initcheck what
// nobody has written.
class ExactArrays {
 public:
  ~ExactArrays() {
    for (void* array : arrays_) cudaFree(array);
  }
  template <class T>
  T* of(int64_t count) {
    void* array = nullptr;
    EXPECT_EQ(cudaMalloc(&array, static_cast<size_t>(count) * sizeof(T)), cudaSuccess);
    arrays_.push_back(array);
    return static_cast<T*>(array);
  }
  template <class T>
  T* copy_of(const T* host, int64_t count) {
    T* const array = of<T>(count);
    copy(array, host, count);
    return array;
  }
  template <class T>
  static void copy(T* to, const T* host, int64_t count) {
    EXPECT_EQ(cudaMemcpy(to, host, static_cast<size_t>(count) * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
  }

 private:
  std::vector<void*> arrays_;
};

// Copies a pool, but neither the slots past the lengths nor the tokens that no other slot names.
void copy_what_may_be_read(const ScopeSpec& scope, const int32_t* lengths, int32_t rows,
                           ExactArrays* arrays, steady_pool* pool) {
  const steady_pool host = *pool;
  const steady_pool_shape shape = {scope.format, scope.page_tokens, scope.width};
  const int64_t stride = std::max<int64_t>(host.slots_stride, scope.width);
  auto* const slots = arrays->of<int32_t>((rows - 1) * stride + scope.width);
  pool->slots = slots;
  pool->pages = arrays->of<uint8_t>((host.page_count - 1) * host.page_stride_bytes +
                                    steady_page_bytes(scope.format, scope.page_tokens));
  std::set<int32_t> named;
  for (int32_t row = 0; row < rows; ++row) {
    const int32_t* const begin = host.slots + row * stride;
    ExactArrays::copy(slots + row * stride, begin, lengths[row]);
    named.insert(begin, begin + lengths[row]);
  }
  const bool fp8 = scope.format == STEADY_CACHE_FP8;
  for (const int32_t slot : named) {
    if (slot < 0 || slot >= host.page_count * scope.page_tokens) continue;
    ExactArrays::copy(token_data(shape, *pool, slot), token_data(shape, host, slot),
                      fp8 ? STEADY_FP8_DATA_BYTES : STEADY_BF16_TOKEN_BYTES);
    if (fp8)
      ExactArrays::copy(token_scales(shape, *pool, slot), token_scales(shape, host, slot),
                        STEADY_FP8_SCALE_BYTES);
  }
}

void expect_right_in_exact_arrays(const CaseSpec& spec, int32_t checked) {
  SCOPED_TRACE(describe(spec));
  const HostileCase c(spec);
  const int32_t rows = spec.batch;
  const int64_t vectors = int64_t{rows} * spec.heads;
  ExactArrays arrays;
  steady_step step = c.step;
  step.window.values = arrays.copy_of(step.window.values, rows);
  step.compressed[0].values = arrays.copy_of(step.compressed[0].values, rows);
  steady_layer layer = c.layers[0];
  layer.q = arrays.copy_of(layer.q, vectors * STEADY_HEAD_DIM);
  layer.out = arrays.of<uint16_t>(vectors * STEADY_HEAD_DIM);
  layer.lse = arrays.of<float>(vectors);
  layer.sink = arrays.copy_of(layer.sink, spec.heads);
  copy_what_may_be_read(spec.window, c.window_lengths(), rows, &arrays, &layer.window);
  copy_what_may_be_read(spec.compressed[0], c.compressed_lengths(), rows, &arrays,
                        &layer.compressed);

  const Engine engine(c.shape(), {sizeof(steady_options), STEADY_CUDA, 0, 0, checked});
  const size_t bytes = steady_workspace_bytes(engine.get());
  const steady_workspace workspace = {arrays.of<uint8_t>(static_cast<int64_t>(bytes)), bytes};
  ASSERT_TRUE(ok(steady_plan(engine.get(), workspace, &step, nullptr)));
  ASSERT_TRUE(ok(steady_decode(engine.get(), workspace, &step, &layer, nullptr)));
  Outputs outputs = {spec.heads, std::vector<uint16_t>(vectors * STEADY_HEAD_DIM),
                     std::vector<float>(vectors)};
  ASSERT_EQ(cudaMemcpy(outputs.out.data(), layer.out, outputs.out.size() * sizeof(uint16_t),
                       cudaMemcpyDeviceToHost),
            cudaSuccess);
  ASSERT_EQ(cudaMemcpy(outputs.lse.data(), layer.lse, outputs.lse.size() * sizeof(float),
                       cudaMemcpyDeviceToHost),
            cudaSuccess);
  EXPECT_TRUE(close_to(outputs, c.answer()));
}

TEST_F(CudaDevice, ReadsAndWritesWithinArraysOfTheirExactSizeAndOnlyWhatIsNamed) {
  for (const int32_t page_tokens : {1, 53}) {
    CaseSpec spec = two_scopes();
    spec.loose = false;
    spec.window.page_tokens = page_tokens;
    spec.compressed[0] = {1500, STEADY_CACHE_BF16, page_tokens};
    for (const int32_t checked : {0, 1}) expect_right_in_exact_arrays(spec, checked);
    // Rows enough for groups of 32 and 64 heads, and for two groups that share tokens.
    spec.batch = 140;
    spec.compressed[0].width = 90;
    for (const int32_t heads : {30, 64, 100}) {
      spec.heads = heads;
      expect_right_in_exact_arrays(spec, 0);
    }
  }
}

void expect_all_nan(const HostileCase& c) {
  for (const uint16_t bits : c.outputs().out) ASSERT_EQ(bits & 0x7fff, 0x7fc0);
  for (const float lse : c.outputs().lse) ASSERT_TRUE(std::isnan(lse));
  EXPECT_TRUE(c.gaps_untouched());
}

TEST_F(CudaDevice, WithoutAPlanAnswersAreNaN) {
  HostileCase c(two_scopes());
  const Engine engine(c.shape(), STEADY_CUDA);
  const Caller caller(engine);
  EXPECT_TRUE(
      ok(steady_decode(engine.get(), caller.workspace(), &c.step, &c.layers[0], caller.stream())));
  EXPECT_TRUE(ok(steady_stream_wait(engine.get(), caller.stream())));
  expect_all_nan(c);
}

TEST_F(CudaDevice, WithAPlanForAnotherBatchOrOfAnotherEngineAnswersAreNaN) {
  const HostileCase planned(two_scopes());
  const Engine engine(planned.shape(), STEADY_CUDA), twin(planned.shape(), STEADY_CUDA);
  const Caller caller(engine);
  const auto expect_nan = [&](const Engine& decoder, int32_t batch) {
    CaseSpec spec = two_scopes();
    spec.max_batch = spec.batch;
    spec.batch = batch;
    const HostileCase c(spec);
    EXPECT_TRUE(ok(steady_plan(engine.get(), caller.workspace(), &planned.step, caller.stream())));
    EXPECT_TRUE(ok(
        steady_decode(decoder.get(), caller.workspace(), &c.step, &c.layers[0], caller.stream())));
    EXPECT_TRUE(ok(steady_stream_wait(engine.get(), caller.stream())));
    expect_all_nan(c);
  };
  for (const int32_t batch : {1, 4}) expect_nan(engine, batch);
  expect_nan(twin, planned.spec().batch);
}

// Breaks the device's context, so it runs in a process of its own.
void blame_nobody_for_an_earlier_fault() {
  HostileCase c(two_scopes());
  const Engine engine(c.shape(), STEADY_CUDA);
  const Caller caller(engine);
  HostileCase broken(two_scopes());
  broken.layers[0].q = reinterpret_cast<const uint16_t*>(0x10);  // an address nobody has
  EXPECT_TRUE(ok(steady_plan(engine.get(), caller.workspace(), &broken.step, caller.stream())));
  EXPECT_TRUE(ok(steady_decode(engine.get(), caller.workspace(), &broken.step, &broken.layers[0],
                               caller.stream())));
  cudaDeviceSynchronize();
  const steady_status status =
      steady_plan(engine.get(), caller.workspace(), &c.step, caller.stream());
  std::fprintf(stderr, "%s: %s\n", steady_status_name(status), steady_last_error());
  std::_Exit(status == STEADY_DEVICE_FAILED ? 0 : 1);
}

TEST_F(CudaDevice, AFaultOfEarlierWorkIsToldApartFromAnErrorOfTheCall) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_EXIT(blame_nobody_for_an_earlier_fault(), testing::ExitedWithCode(0),
              "STEADY_DEVICE_FAILED: the device had failed before this call");
}

}  // namespace
}  // namespace steady::test
