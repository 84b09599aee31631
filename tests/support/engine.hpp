// SPDX-License-Identifier: Apache-2.0
// A shape and a backend go in; an engine, callers with workspaces of their own and graphs come out,
// each freed with its owner. A call that fails fails the test with its text.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <new>
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

class Engine {
 public:
  Engine(const steady_shape& shape, const steady_options& options) {
    EXPECT_TRUE(ok(steady_engine_create(&shape, &options, &engine_)));
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
    workspace_.bytes = steady_workspace_bytes(engine_);
    workspace_.data = ::operator new(workspace_.bytes, kAlignment);
    std::memset(workspace_.data, 0xA5, workspace_.bytes);
    EXPECT_TRUE(ok(steady_stream_create(engine_, &stream_)));
  }
  ~Caller() {
    steady_stream_destroy(engine_, stream_);
    ::operator delete(workspace_.data, kAlignment);
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
  static constexpr std::align_val_t kAlignment{256};

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

// Every test runs on all backends.
class OnEveryBackend : public testing::TestWithParam<steady_backend> {
 protected:
  steady_backend backend() const { return GetParam(); }
};

inline const auto kEveryBackend = testing::Values(STEADY_CPU, STEADY_ORACLE);

inline std::string backend_name(const testing::TestParamInfo<steady_backend>& info) {
  return info.param == STEADY_CPU ? "cpu" : "oracle";
}

}  // namespace steady::test
