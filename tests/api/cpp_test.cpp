// SPDX-License-Identifier: Apache-2.0
// The C++ header: ownership that moves and does not copy, exceptions with status and text.
#include <numeric>
#include <type_traits>

#include "steady/steady.hpp"
#include "tests/support/engine.hpp"

namespace steady::test {
namespace {

template <typename T>
constexpr bool kMovesOnly =
    std::is_nothrow_move_constructible_v<T>&& std::is_nothrow_move_assignable_v<T> &&
    !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T>;

static_assert(kMovesOnly<steady::Engine>);
static_assert(kMovesOnly<steady::Graph>);
static_assert(kMovesOnly<steady::Workspace>);
static_assert(kMovesOnly<steady::Stream>);
static_assert(kMovesOnly<steady::DeviceArray<float>>);

CaseSpec step_spec() {
  CaseSpec spec;
  spec.window = {70, STEADY_CACHE_FP8, 16};
  return spec;
}

class Cpp : public OnEveryBackend {
 protected:
  Cpp() { options.backend = backend(); }

  template <typename Call>
  static void expect_throws(steady_status status, const std::string& word, Call call) {
    try {
      call();
      ADD_FAILURE() << "nothing was thrown";
    } catch (const steady::Error& error) {
      EXPECT_EQ(error.status(), status);
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
  }

  // A device's work is done when its stream is.
  static void wait(const steady::Engine& engine) {
    EXPECT_TRUE(ok(steady_stream_wait(engine.get(), nullptr)));
  }

  const HostileCase c{step_spec()};
  steady_options options = steady::make<steady_options>();
};

INSTANTIATE_TEST_SUITE_P(, Cpp, kEveryBackend, backend_name);

TEST_P(Cpp, MakesZeroedStructsOfTheirSize) {
  const auto shape = steady::make<steady_shape>();
  EXPECT_EQ(shape.struct_size, sizeof(steady_shape));
  EXPECT_EQ(shape.heads, 0);
  EXPECT_EQ(shape.compressed[STEADY_MAX_KINDS - 1].max_tokens, 0);
}

TEST_P(Cpp, RunsAStepEagerly) {
  const steady::Engine engine(c.shape(), options);
  EXPECT_EQ(engine.backend(), backend());
  const steady::Workspace workspace(engine);
  EXPECT_EQ(static_cast<steady_workspace>(workspace).bytes, engine.workspace_bytes());
  engine.plan(workspace, c.step);
  engine.decode(workspace, c.step, c.layers[0]);
  wait(engine);
  EXPECT_TRUE(close_to(c.outputs(), c.answer()));
}

TEST_P(Cpp, CapturesAndReplaysAStep) {
  const steady::Engine engine(c.shape(), options);
  const steady::Workspace workspace(engine);
  const steady::Stream stream(engine);
  const steady::Graph graph = engine.capture(stream, [&] {
    engine.plan(workspace, c.step, stream);
    engine.decode(workspace, c.step, c.layers[0], stream);
  });
  EXPECT_TRUE(c.outputs_untouched());
  graph.replay(stream);
  stream.wait();
  EXPECT_TRUE(close_to(c.outputs(), c.answer()));
}

TEST_P(Cpp, EndsACaptureThatThrows) {
  const steady::Engine engine(c.shape(), options);
  const steady::Workspace workspace(engine);
  const steady::Stream stream(engine);
  EXPECT_THROW(engine.capture(stream,
                              [&] {
                                engine.plan(workspace, c.step, stream);
                                throw std::runtime_error("in the middle");
                              }),
               std::runtime_error);
  engine.plan(workspace, c.step, stream);
  engine.decode(workspace, c.step, c.layers[0], stream);
  stream.wait();
  EXPECT_TRUE(close_to(c.outputs(), c.answer())) << "the stream is still capturing";
}

TEST_P(Cpp, ThrowsStatusAndText) {
  steady_shape shape = c.shape();
  shape.heads = 129;
  expect_throws(STEADY_INVALID_ARGUMENT, "heads", [&] { steady::Engine(shape, options); });
  const steady::Engine engine(c.shape(), options);
  const steady::Workspace workspace(engine);
  if (backend() != STEADY_CUDA) {  // a device answers NaN
    expect_throws(STEADY_NOT_PLANNED, "plan",
                  [&] { engine.decode(workspace, c.step, c.layers[0]); });
  }
  expect_throws(STEADY_INVALID_ARGUMENT, "step", [&] { engine.plan(workspace, steady_step{}); });
  expect_throws(STEADY_INVALID_ARGUMENT, "stream", [&] { engine.capture(nullptr, [] {}); });
  expect_throws(STEADY_INVALID_ARGUMENT, "checked", [&] { engine.report(workspace); });
  expect_throws(STEADY_OUT_OF_MEMORY, "memory",
                [&] { steady::DeviceArray<char>(engine, static_cast<size_t>(-1) / 2); });
  EXPECT_THROW(steady::DeviceArray<double>(engine, static_cast<size_t>(-1) / 4), std::bad_alloc);
  expect_throws(STEADY_INVALID_ARGUMENT, "graph", [&] { steady::Graph(nullptr).replay(); });
  EXPECT_TRUE(c.outputs_untouched());
}

TEST_P(Cpp, ReportsOfACheckedEngine) {
  options.checked = 1;
  const steady::Engine engine(c.shape(), options);
  const steady::Workspace workspace(engine);
  c.window_lengths()[1] = -9;
  engine.plan(workspace, c.step);
  const steady_report report = engine.report(workspace);
  EXPECT_EQ(report.negative_length.count, 1);
  EXPECT_EQ(report.negative_length.request, 1);
  EXPECT_EQ(report.negative_length.value, -9);
}

TEST_P(Cpp, MovesWhatItOwns) {
  steady::Engine engine(c.shape(), options);
  const steady_engine* const handle = engine.get();
  steady::Engine moved = std::move(engine);
  EXPECT_EQ(moved.get(), handle);
  steady::Workspace workspace(moved);
  const void* const data = static_cast<steady_workspace>(workspace).data;
  const steady::Workspace kept = std::move(workspace);
  EXPECT_EQ(static_cast<steady_workspace>(kept).data, data);
  moved.plan(kept, c.step);
  moved.decode(kept, c.step, c.layers[0]);
  wait(moved);
  EXPECT_TRUE(close_to(c.outputs(), c.answer()));
}

TEST_P(Cpp, CopiesThroughDeviceArrays) {
  const steady::Engine engine(c.shape(), options);
  const steady::DeviceArray<int32_t> array(engine, 100);
  std::vector<int32_t> sent(100), received(100);
  std::iota(sent.begin(), sent.end(), 5);
  engine.upload(array.data(), sent.data(), sizeof(int32_t) * array.size());
  engine.download(received.data(), array.data(), sizeof(int32_t) * array.size());
  wait(engine);
  EXPECT_EQ(received, sent);
}

TEST(CppLibrary, DescribesEveryBackend) {
  const auto all = steady::describe_backends();
  ASSERT_GE(all.size(), 2U);
  for (size_t i = 0; i < all.size(); ++i) {
    auto info = steady::make<steady_backend_info>();
    ASSERT_TRUE(ok(steady_describe_backend(static_cast<int32_t>(i), &info)));
    EXPECT_EQ(all[i].backend, info.backend);
  }
  auto info = steady::make<steady_backend_info>();
  EXPECT_NE(steady_describe_backend(static_cast<int32_t>(all.size()), &info), STEADY_OK);
}

}  // namespace
}  // namespace steady::test
