// SPDX-License-Identifier: Apache-2.0
// An engine's shape in, engine, workspace, stream and graph as owners of the library's handles out.
#include "fail.hpp"
#include "objects.hpp"

namespace nb = nanobind;

namespace steady::python {

Engine::Engine(const steady_shape& shape, const steady_options& options) : shape_(shape) {
  check(steady_engine_create(&shape_, &options, &handle_));
  cuda_device_ = steady_engine_backend(handle_) == STEADY_CUDA ? options.device : -1;
}

std::string Engine::backend_name() const {
  steady_backend_info info = {};
  info.struct_size = sizeof info;
  for (int32_t i = 0; i < steady_backend_count(); ++i) {
    check(steady_describe_backend(i, &info));
    if (info.backend == steady_engine_backend(handle_)) return info.name;
  }
  return {};
}

Workspace::Workspace(EngineRef engine, nb::handle memory) : engine_(std::move(engine)) {
  workspace_.bytes = steady_workspace_bytes(engine_->get());
  if (memory.is_none()) {
    check(steady_device_alloc(engine_->get(), workspace_.bytes, &workspace_.data));
    return;
  }
  memory_ = Tensor("memory", memory, Access::kWrite, true);
  memory_.expect_device(engine_->cuda_device());
  if (!memory_.is_packed_from(0)) refuse(memory_.describe(), "; it must be contiguous");
  workspace_ = {memory_.data<void>(),
                static_cast<size_t>(memory_.elements_from(0) * memory_.element_bits() / 8)};
}

Workspace::~Workspace() {
  if (!memory_) steady_device_free(engine_->get(), workspace_.data);
}

Stream::Stream(EngineRef engine) : engine_(std::move(engine)) {
  check(steady_stream_create(engine_->get(), &handle_));
}

Stream::~Stream() { steady_stream_destroy(engine_->get(), handle_); }

void Stream::wait() const {
  steady_status status;
  {
    const nb::gil_scoped_release unlocked;
    status = steady_stream_wait(engine_->get(), handle_);
  }
  check(status);
}

void Graph::replay(steady_stream stream) const {
  steady_status status;
  {
    const nb::gil_scoped_release unlocked;
    status = steady_graph_replay(handle_, stream);
  }
  check(status);
}

}  // namespace steady::python
