// SPDX-License-Identifier: Apache-2.0
// Calls on a capturing stream in, a graph that repeats them out.
#include "cpu/graph.hpp"

namespace steady::cpu {
namespace {

class CpuGraph final : public Graph {
 public:
  CpuGraph(const CpuEngine& engine, Calls calls) : engine_(engine), calls_(std::move(calls)) {}

  Status replay(steady_stream stream) const override {
    STEADY_RETURN_IF_ERROR(engine_.check_stream(stream));
    if (is_capturing(stream)) {
      return invalid("stream is capturing; a graph cannot be replayed into another graph");
    }
    for (const auto& call : calls_) {
      if (const auto* plan = std::get_if<PlanCall>(&call)) {
        engine_.run_plan(plan->workspace, plan->step);
      } else {
        const auto& decode = std::get<DecodeCall>(call);
        STEADY_RETURN_IF_ERROR(engine_.run_decode(decode.workspace, decode.layer));
      }
    }
    return {};
  }

 private:
  const CpuEngine& engine_;
  const Calls calls_;
};

}  // namespace

Status CpuEngine::check_stream(steady_stream stream) const {
  if (stream == nullptr || static_cast<Stream*>(stream)->engine == this) return {};
  return invalid(
      "stream belongs to another engine; use one that steady_stream_create made for this one");
}

Status CpuEngine::plan(void* workspace, const Step& step, steady_stream stream) const {
  STEADY_RETURN_IF_ERROR(check_stream(stream));
  if (is_capturing(stream)) {
    static_cast<Stream*>(stream)->calls.push_back(PlanCall{workspace, step});
  } else {
    run_plan(workspace, step);
  }
  return {};
}

Status CpuEngine::decode(void* workspace, const Step&, const Layer& layer,
                         steady_stream stream) const {
  STEADY_RETURN_IF_ERROR(check_stream(stream));
  if (!is_capturing(stream)) return run_decode(workspace, layer);
  static_cast<Stream*>(stream)->calls.push_back(DecodeCall{workspace, layer});
  return {};
}

Status CpuEngine::capture_begin(steady_stream stream) const {
  STEADY_RETURN_IF_ERROR(check_stream(stream));
  if (stream == nullptr) {
    return invalid("stream is NULL; capture needs a stream that steady_stream_create made");
  }
  if (is_capturing(stream)) return invalid("stream is capturing already; end that capture first");
  static_cast<Stream*>(stream)->capturing = true;
  return {};
}

Status CpuEngine::capture_end(steady_stream stream, std::unique_ptr<Graph>* out) const {
  STEADY_RETURN_IF_ERROR(check_stream(stream));
  if (!is_capturing(stream)) {
    return invalid("stream is not capturing; call steady_capture_begin before steady_capture_end");
  }
  auto* const captured = static_cast<Stream*>(stream);
  *out = std::make_unique<CpuGraph>(*this, std::move(captured->calls));
  captured->calls.clear();
  captured->capturing = false;
  return {};
}

Status CpuEngine::stream_create(steady_stream* out) const {
  *out = new Stream{this, false, {}};
  return {};
}

void CpuEngine::stream_destroy(steady_stream stream) const { delete static_cast<Stream*>(stream); }

Status CpuEngine::stream_wait(steady_stream stream) const { return check_stream(stream); }

}  // namespace steady::cpu
