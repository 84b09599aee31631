// SPDX-License-Identifier: Apache-2.0
// Launches on a capturing stream in, a CUDA graph that repeats them out.
#include "cuda/device_guard.hpp"
#include "cuda/engine.hpp"
#include "cuda/error.hpp"

namespace steady::cuda {
namespace {

class CudaGraph final : public Graph {
 public:
  CudaGraph(int device, cudaGraphExec_t graph) : device_(device), graph_(graph) {}
  ~CudaGraph() override { cudaGraphExecDestroy(graph_); }

  Status replay(steady_stream stream) const override {
    const DeviceGuard guard(device_);
    STEADY_RETURN_IF_ERROR(status_of(guard.error(), "choosing the device"));
    bool active = false;
    STEADY_RETURN_IF_ERROR(capturing(static_cast<cudaStream_t>(stream), &active));
    if (active)
      return invalid("stream is capturing; a graph cannot be replayed into another graph");
    return status_of(cudaGraphLaunch(graph_, static_cast<cudaStream_t>(stream)),
                     "launch of the graph");
  }

 private:
  const int device_;
  const cudaGraphExec_t graph_;
};

}  // namespace

Status CudaEngine::capture_begin(steady_stream stream) const {
  const DeviceGuard guard(card_.device);
  STEADY_RETURN_IF_ERROR(status_of(guard.error(), "choosing the device"));
  const auto native = static_cast<cudaStream_t>(stream);
  if (native == nullptr) return invalid("stream is NULL; the default stream cannot be captured");
  bool active = false;
  STEADY_RETURN_IF_ERROR(capturing(native, &active));
  if (active) return invalid("stream is capturing already; end that capture first");
  return status_of(cudaStreamBeginCapture(native, cudaStreamCaptureModeRelaxed),
                   "begin of the capture");
}

Status CudaEngine::capture_end(steady_stream stream, std::unique_ptr<Graph>* out) const {
  const DeviceGuard guard(card_.device);
  STEADY_RETURN_IF_ERROR(status_of(guard.error(), "choosing the device"));
  const auto native = static_cast<cudaStream_t>(stream);
  bool active = false;
  if (native != nullptr) STEADY_RETURN_IF_ERROR(capturing(native, &active));
  if (!active) {
    return invalid("stream is not capturing; call steady_capture_begin before steady_capture_end");
  }
  cudaGraph_t captured = nullptr;
  STEADY_RETURN_IF_ERROR(status_of(cudaStreamEndCapture(native, &captured), "end of the capture"));
  cudaGraphExec_t graph = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&graph, captured, 0);
  cudaGraphDestroy(captured);
  STEADY_RETURN_IF_ERROR(status_of(error, "instantiation of the graph"));
  *out = std::make_unique<CudaGraph>(card_.device, graph);
  return {};
}

}  // namespace steady::cuda
