// SPDX-License-Identifier: Apache-2.0
// A shape and a backend go in; an engine, callers with workspaces of their own and graphs come out,
// each freed with its owner. A call that fails fails the test with its text.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <optional>
#include <string>

#include "steady/device.h"
#include "steady/steady.h"
#include "tests/support/hostile_case.hpp"

namespace steady::test {

inline testing::AssertionResult ok(steady_status status) {
  if (status == STEADY_OK) return testing::AssertionSuccess();
  return testing::AssertionFailure() << steady_status_name(status) << ": " << steady_last_error();
}

struct GraphDestroyer {
  void operator()(steady_graph* graph) const { steady_graph_destroy(graph); }
};
using Graph = std::unique_ptr<steady_graph, GraphDestroyer>;

// None if this build has no such backend.
inline std::optional<steady_backend_info> find_info(steady_backend backend) {
  steady_backend_info info = {};
  info.struct_size = sizeof(info);
  for (int32_t i = 0; steady_describe_backend(i, &info) == STEADY_OK; ++i) {
    if (info.backend == backend) return info;
  }
  return std::nullopt;
}

inline steady_backend_info info_of(steady_backend backend) {
  const auto info = find_info(backend);
  if (!info) ADD_FAILURE() << "this build has no backend " << backend;
  return info.value_or(steady_backend_info{});
}

inline bool has_usable_device() {
  const auto info = find_info(STEADY_CUDA);
  return info && info->usable != 0;
}

// None where the machine cannot run the backend: a fixture is made before its test is skipped.
class Engine {
 public:
  Engine(const steady_shape& shape, const steady_options& options) {
    if (options.backend == STEADY_AUTO || info_of(options.backend).usable != 0) {
      EXPECT_TRUE(ok(steady_engine_create(&shape, &options, &engine_)));
    }
  }
  Engine(const steady_shape& shape, steady_backend backend, int32_t threads = 0)
      : Engine(shape, steady_options{sizeof(steady_options), backend, 0, threads, 0}) {}
  ~Engine() { steady_engine_destroy(engine_); }
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const steady_engine* get() const { return engine_; }

 private:
  steady_engine* engine_ = nullptr;
};

// What one stream of calls owns: a stream and a workspace, full of garbage at first.
class Caller {
 public:
  explicit Caller(const Engine& engine) : engine_(engine.get()) {
    if (engine_ == nullptr) return;
    workspace_.bytes = steady_workspace_bytes(engine_);
    workspace_.data = common_memory().allocate(workspace_.bytes, kAlignment);
    std::memset(workspace_.data, 0xA5, workspace_.bytes);
    EXPECT_TRUE(ok(steady_stream_create(engine_, &stream_)));
  }
  ~Caller() {
    if (engine_ == nullptr) return;
    steady_stream_destroy(engine_, stream_);
    common_memory().deallocate(workspace_.data, workspace_.bytes, kAlignment);
  }
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;

  steady_workspace workspace() const { return workspace_; }
  steady_stream stream() const { return stream_; }

  // Plans the step and computes all its layers.
  void run(const HostileCase& c) const {
    issue(c);
    EXPECT_TRUE(ok(steady_stream_wait(engine_, stream_)));
  }

  Graph capture(const HostileCase& c) const {
    steady_graph* graph = nullptr;
    EXPECT_TRUE(ok(steady_capture_begin(engine_, stream_)));
    issue(c);
    EXPECT_TRUE(ok(steady_capture_end(engine_, stream_, &graph)));
    return Graph(graph);
  }

  void replay(const Graph& graph) const {
    EXPECT_TRUE(ok(steady_graph_replay(graph.get(), stream_)));
    EXPECT_TRUE(ok(steady_stream_wait(engine_, stream_)));
  }

  steady_report report() const {
    steady_report report = {};
    report.struct_size = sizeof(report);
    EXPECT_TRUE(ok(steady_read_report(engine_, workspace_, stream_, &report)));
    return report;
  }

 private:
  static constexpr size_t kAlignment = 256;

  void issue(const HostileCase& c) const {
    EXPECT_TRUE(ok(steady_plan(engine_, workspace_, &c.step, stream_)));
    for (const steady_layer& layer : c.layers)
      EXPECT_TRUE(ok(steady_decode(engine_, workspace_, &c.step, &layer, stream_)));
  }

  const steady_engine* engine_;
  steady_workspace workspace_ = {};
  steady_stream stream_ = nullptr;
};

// The outputs of the first layer, computed by an engine of the case's own.
inline Outputs run_alone(const HostileCase& c, steady_backend backend, int32_t threads = 0) {
  const Engine engine(c.shape(), backend, threads);
  Caller(engine).run(c);
  return c.outputs();
}

// The case is computed rightly, and nothing else is written.
inline void expect_right(const HostileCase& c, steady_backend backend, int32_t threads = 0) {
  SCOPED_TRACE(describe(c.spec()));
  EXPECT_TRUE(close_to(run_alone(c, backend, threads), c.answer()));
  EXPECT_TRUE(c.gaps_untouched());
}

// Every test runs on all backends of the build; those that this machine cannot run are skipped by
// name.
class OnEveryBackend : public testing::TestWithParam<steady_backend> {
 protected:
  void SetUp() override {
    const steady_backend_info info = info_of(backend());
    if (info.usable == 0) GTEST_SKIP() << info.name << ": " << info.detail;
    set_row_tolerance(backend() == STEADY_CUDA ? kRowToleranceOfBf16Products : kOutTolerance);
  }

  steady_backend backend() const { return GetParam(); }
  bool is_device() const { return backend() == STEADY_CUDA; }
};

// Leaves a test that a backend whose work runs apart from the caller cannot pass, saying why.
#define SKIP_ON_DEVICES(reason) \
  if (is_device()) GTEST_SKIP() << (reason)

#if STEADY_WITH_CUDA
inline const auto kEveryBackend = testing::Values(STEADY_CPU, STEADY_ORACLE, STEADY_CUDA);
#else
inline const auto kEveryBackend = testing::Values(STEADY_CPU, STEADY_ORACLE);
#endif

inline std::string backend_name(const testing::TestParamInfo<steady_backend>& info) {
  return info_of(info.param).name;
}

}  // namespace steady::test
