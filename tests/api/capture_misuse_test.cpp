// SPDX-License-Identifier: Apache-2.0
// Captures, replays and reports out of order go in; a sentence comes out, and what was under way
// goes on.
#include <cstring>

#include "tests/api/failure.hpp"
#include "tests/support/engine.hpp"

namespace steady::test {
namespace {

CaseSpec step_spec() {
  CaseSpec spec;
  spec.window = {70, STEADY_CACHE_FP8, 16};
  return spec;
}

class CaptureMisuse : public OnEveryBackend {
 protected:
  CaptureMisuse()
      : c(step_spec()),
        engine(c.shape(), backend()),
        other(c.shape(), backend()),
        caller(engine),
        other_caller(other) {}

  steady_status begin() const { return steady_capture_begin(engine.get(), caller.stream()); }
  steady_status plan() const {
    return steady_plan(engine.get(), caller.workspace(), &c.step, caller.stream());
  }
  steady_status decode() const {
    return steady_decode(engine.get(), caller.workspace(), &c.step, &c.layers[0], caller.stream());
  }
  Graph end() const {
    steady_graph* graph = nullptr;
    EXPECT_TRUE(ok(steady_capture_end(engine.get(), caller.stream(), &graph)));
    return Graph(graph);
  }

  HostileCase c;
  Engine engine, other;
  Caller caller, other_caller;
  steady_graph* none = nullptr;
};

INSTANTIATE_TEST_SUITE_P(, CaptureMisuse, kEveryBackend, backend_name);

TEST_P(CaptureMisuse, NullPointers) {
  EXPECT_TRUE(invalid(steady_capture_begin(nullptr, caller.stream()), {"engine", "NULL"}));
  EXPECT_TRUE(invalid(steady_capture_begin(engine.get(), nullptr), {"stream", "NULL"}));
  EXPECT_TRUE(invalid(steady_capture_end(nullptr, caller.stream(), &none), {"engine", "NULL"}));
  EXPECT_TRUE(invalid(steady_capture_end(engine.get(), nullptr, &none), {"stream"}));
  EXPECT_TRUE(invalid(steady_graph_replay(nullptr, nullptr), {"graph", "NULL"}));
  EXPECT_EQ(none, nullptr);
  steady_graph_destroy(nullptr);
}

TEST_P(CaptureMisuse, ANestedBeginLeavesTheCaptureAsItIs) {
  ASSERT_TRUE(ok(begin()));
  ASSERT_TRUE(ok(plan()));
  EXPECT_TRUE(invalid(begin(), {"stream", "capturing"}));
  ASSERT_TRUE(ok(decode()));
  const Graph graph = end();
  EXPECT_TRUE(c.outputs_untouched());
  caller.replay(graph);
  EXPECT_TRUE(close_to(c.outputs(), c.answer()));
}

TEST_P(CaptureMisuse, AnEndWithoutABegin) {
  none = reinterpret_cast<steady_graph*>(this);
  EXPECT_TRUE(invalid(steady_capture_end(engine.get(), caller.stream(), &none),
                      {"stream", "steady_capture_begin"}));
  EXPECT_EQ(none, nullptr);
}

TEST_P(CaptureMisuse, AnEndThatCannotHandOutItsGraphLeavesTheCaptureAsItIs) {
  ASSERT_TRUE(ok(begin()));
  ASSERT_TRUE(ok(plan()));
  ASSERT_TRUE(ok(decode()));
  EXPECT_TRUE(invalid(steady_capture_end(engine.get(), caller.stream(), nullptr), {"out", "NULL"}));
  caller.replay(end());
  EXPECT_TRUE(close_to(c.outputs(), c.answer()));
}

TEST_P(CaptureMisuse, ACallThatFailsIsNotRecorded) {
  ASSERT_TRUE(ok(begin()));
  ASSERT_TRUE(ok(plan()));
  c.layers[0].kind = 5;
  EXPECT_TRUE(invalid(decode(), {"kind"}));
  c.layers[0].kind = 0;
  ASSERT_TRUE(ok(decode()));
  caller.replay(end());
  EXPECT_TRUE(close_to(c.outputs(), c.answer()));
}

TEST_P(CaptureMisuse, AStreamOfAnotherEngine) {
  SKIP_ON_DEVICES("a device's streams belong to no engine");
  const steady_stream foreign = other_caller.stream();
  const std::vector<std::string> words = {"stream", "engine"};
  EXPECT_TRUE(invalid(steady_capture_begin(engine.get(), foreign), words));
  EXPECT_TRUE(invalid(steady_capture_end(engine.get(), foreign, &none), words));
  EXPECT_TRUE(invalid(steady_plan(engine.get(), caller.workspace(), &c.step, foreign), words));
  EXPECT_TRUE(ok(plan()));
  EXPECT_TRUE(invalid(
      steady_decode(engine.get(), caller.workspace(), &c.step, &c.layers[0], foreign), words));
  EXPECT_TRUE(invalid(steady_stream_wait(engine.get(), foreign), words));
  const Graph graph = caller.capture(c);
  EXPECT_TRUE(invalid(steady_graph_replay(graph.get(), foreign), words));
  EXPECT_TRUE(c.outputs_untouched());
}

TEST_P(CaptureMisuse, AReplayIntoACapture) {
  const Graph graph = caller.capture(c);
  ASSERT_TRUE(ok(begin()));
  EXPECT_TRUE(invalid(steady_graph_replay(graph.get(), caller.stream()), {"stream", "capturing"}));
  end();
  EXPECT_TRUE(c.outputs_untouched());
}

TEST_P(CaptureMisuse, ACopyInACaptureIsRefusedAndDoesNotRun) {
  int from = 1, to = 2;
  ASSERT_TRUE(ok(begin()));
  EXPECT_TRUE(failed(steady_upload(engine.get(), &to, &from, sizeof(to), caller.stream()),
                     STEADY_UNSUPPORTED, {"cop", "capture"}));
  EXPECT_TRUE(failed(steady_download(engine.get(), &to, &from, sizeof(to), caller.stream()),
                     STEADY_UNSUPPORTED, {"cop", "capture"}));
  end();
  EXPECT_EQ(to, 2);
}

TEST_P(CaptureMisuse, ACaptureOnOneStreamLeavesTheOthersAlone) {
  ASSERT_TRUE(ok(begin()));
  caller.run(c);  // the capturing stream: recorded
  EXPECT_TRUE(c.outputs_untouched());
  const Caller eager(engine);
  eager.run(c);
  EXPECT_TRUE(close_to(c.outputs(), c.answer()));
  end();
}

TEST_P(CaptureMisuse, AGraphOfNothingReplaysNothing) {
  ASSERT_TRUE(ok(begin()));
  caller.replay(end());
  EXPECT_TRUE(c.outputs_untouched());
}

TEST_P(CaptureMisuse, AGraphWithoutAPlanNeedsOneInTheWorkspace) {
  SKIP_ON_DEVICES("a device answers NaN without a plan; see CudaDevice.WithoutAPlanAnswersAreNaN");
  ASSERT_TRUE(ok(begin()));
  ASSERT_TRUE(ok(decode()));
  const Graph graph = end();
  EXPECT_TRUE(failed(steady_graph_replay(graph.get(), caller.stream()), STEADY_NOT_PLANNED,
                     {"workspace", "plan"}));
  EXPECT_TRUE(c.outputs_untouched());
  ASSERT_TRUE(ok(plan()));
  caller.replay(graph);
  EXPECT_TRUE(close_to(c.outputs(), c.answer()));
}

TEST_P(CaptureMisuse, AnOverwrittenWorkspaceIsPlannedAnewByTheReplay) {
  const Graph graph = caller.capture(c);
  caller.replay(graph);
  std::memset(caller.workspace().data, 0xFF, caller.workspace().bytes);
  c.reset_outputs();
  caller.replay(graph);
  EXPECT_TRUE(close_to(c.outputs(), c.answer()));
}

TEST_P(CaptureMisuse, AStreamMayBeDestroyedInTheMiddleOfACapture) {
  steady_stream stream = nullptr;
  ASSERT_TRUE(ok(steady_stream_create(engine.get(), &stream)));
  ASSERT_TRUE(ok(steady_capture_begin(engine.get(), stream)));
  ASSERT_TRUE(ok(steady_plan(engine.get(), caller.workspace(), &c.step, stream)));
  steady_stream_destroy(engine.get(), stream);
}

TEST_P(CaptureMisuse, AGraphOutlivesItsStreamAndTheOtherGraphs) {
  Graph graph;
  {
    const Caller gone(engine);
    ASSERT_TRUE(ok(steady_capture_begin(engine.get(), gone.stream())));
    ASSERT_TRUE(ok(steady_plan(engine.get(), caller.workspace(), &c.step, gone.stream())));
    ASSERT_TRUE(
        ok(steady_decode(engine.get(), caller.workspace(), &c.step, &c.layers[0], gone.stream())));
    steady_graph* captured = nullptr;
    ASSERT_TRUE(ok(steady_capture_end(engine.get(), gone.stream(), &captured)));
    graph.reset(captured);
    caller.capture(c);
  }
  caller.replay(graph);
  EXPECT_TRUE(close_to(c.outputs(), c.answer()));
}

TEST_P(CaptureMisuse, Reports) {
  steady_report report = {};
  report.struct_size = sizeof(report);
  caller.run(c);
  EXPECT_TRUE(
      invalid(steady_read_report(engine.get(), caller.workspace(), nullptr, &report), {"checked"}));
  const Engine checked(c.shape(), {sizeof(steady_options), backend(), 0, 1, 1});
  const Caller checked_caller(checked);
  const steady_workspace workspace = checked_caller.workspace();
  EXPECT_TRUE(failed(steady_read_report(checked.get(), workspace, nullptr, &report),
                     STEADY_NOT_PLANNED, {"workspace", "plan"}));
  checked_caller.run(c);
  EXPECT_TRUE(
      invalid(steady_read_report(nullptr, workspace, nullptr, &report), {"engine", "NULL"}));
  EXPECT_TRUE(invalid(steady_read_report(checked.get(), workspace, nullptr, nullptr),
                      {"steady_report", "NULL"}));
  EXPECT_TRUE(invalid(steady_read_report(checked.get(), {nullptr, 0}, nullptr, &report),
                      {"workspace", "NULL"}));
  if (backend() != STEADY_CUDA) {  // a device's streams belong to no engine
    EXPECT_TRUE(invalid(steady_read_report(checked.get(), workspace, caller.stream(), &report),
                        {"stream", "engine"}));
  }
  report.struct_size = 8;
  EXPECT_TRUE(invalid(steady_read_report(checked.get(), workspace, nullptr, &report),
                      {"steady_report", "struct_size", std::to_string(sizeof(report))}));
}

}  // namespace
}  // namespace steady::test
