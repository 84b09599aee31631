// SPDX-License-Identifier: Apache-2.0
// An engine's shape in, engine, workspace, stream and graph as owners of the library's handles out.
#include "fail.hpp"
#include "objects.hpp"
#include "steady/steady.hpp"

namespace nb = nanobind;

namespace steady::python {

Engine::Engine(const steady_shape& shape, const steady_options& options) : shape_(shape) {
  check(unlocked([&] { return steady_engine_create(&shape_, &options, &handle_); }));
  cuda_device_ = steady_engine_backend(handle_) == STEADY_CUDA ? options.device : -1;
}

Engine::~Engine() {
  unlocked([this] { steady_engine_destroy(handle_); });  // joins the threads of a CPU's pool
}

std::string Engine::backend_name() const {
  for (const steady_backend_info& info : steady::describe_backends()) {
    if (info.backend == steady_engine_backend(handle_)) return info.name;
  }
  return {};
}

steady_workspace workspace_in(const Tensor& memory, const Engine& engine) {
  memory.expect_device(engine.cuda_device());
  if (!memory.is_packed_from(0)) refuse(memory.describe(), "; it must be contiguous");
  return {memory.data<void>(),
          static_cast<size_t>(memory.elements_from(0) * memory.element_bits() / 8)};
}

Workspace::Workspace(EngineRef engine, nb::handle memory) : engine_(std::move(engine)) {
  workspace_.bytes = steady_workspace_bytes(engine_->get());
  if (memory.is_none()) {
    check(unlocked([this] {
      return steady_device_alloc(engine_->get(), workspace_.bytes, &workspace_.data);
    }));
    return;
  }
  memory_ = Tensor("memory", memory, Access::kWrite, true);
  workspace_ = workspace_in(memory_, *engine_);
}

Workspace::~Workspace() {
  if (memory_) return;
  unlocked([this] { steady_device_free(engine_->get(), workspace_.data); });  // waits for CUDA
}

Stream::Stream(EngineRef engine) : engine_(std::move(engine)) {
  check(unlocked([this] { return steady_stream_create(engine_->get(), &handle_); }));
}

Stream::~Stream() {
  unlocked([this] { steady_stream_destroy(engine_->get(), handle_); });
}

void Stream::wait() const {
  check(unlocked([this] { return steady_stream_wait(engine_->get(), handle_); }));
}

Graph::~Graph() {
  unlocked([this] { steady_graph_destroy(handle_); });
}

void Graph::replay(steady_stream stream) const {
  check(unlocked([&] { return steady_graph_replay(handle_, stream); }));
}

}  // namespace steady::python
