// SPDX-License-Identifier: Apache-2.0
// The C API's nouns as objects that keep alive what they use: engine, workspace, stream, step,
// layer, graph. Whatever may wait for a device or for threads does so without the GIL.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "steady/device.h"
#include "steady/steady.h"
#include "tensor.hpp"

namespace steady::python {

/// What `call` returns; other Python threads run meanwhile, as it may wait.
template <class Call>
auto unlocked(Call call) {
  const nanobind::gil_scoped_release released;
  return call();
}

class Engine {
 public:
  Engine(const steady_shape& shape, const steady_options& options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const steady_engine* get() const { return handle_; }
  const steady_shape& shape() const { return shape_; }
  /// Below 0 where the engine computes on host memory.
  int cuda_device() const { return cuda_device_; }
  std::string backend_name() const;

 private:
  steady_shape shape_;
  steady_engine* handle_ = nullptr;
  int cuda_device_;
};

using EngineRef = std::shared_ptr<const Engine>;
using Kept = std::vector<std::shared_ptr<const void>>;

/// The scratch that a tensor holds, which must be one that the engine can use.
steady_workspace workspace_in(const Tensor& memory, const Engine& engine);

class Workspace {
 public:
  /// Of the library's own memory, or in `memory`, which then stays alive.
  Workspace(EngineRef engine, nanobind::handle memory);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  const EngineRef& engine() const { return engine_; }
  steady_workspace get() const { return workspace_; }

 private:
  EngineRef engine_;
  Tensor memory_;
  steady_workspace workspace_ = {};
};

class Stream {
 public:
  explicit Stream(EngineRef engine);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  const EngineRef& engine() const { return engine_; }
  steady_stream get() const { return handle_; }
  void wait() const;

  /// What the calls of a capture in progress use; nothing while there is none.
  std::optional<Kept> captured;

 private:
  EngineRef engine_;
  steady_stream handle_ = nullptr;
};

/// What the lengths of a step mean, checked against the engine.
class Step {
 public:
  /// The tensors stay alive if `keep`. `compressed` is a sequence, one entry a kind, or None.
  Step(EngineRef engine, int batch, nanobind::handle window_lengths, nanobind::handle compressed,
       bool keep);

  const EngineRef& engine() const { return engine_; }
  const steady_step& get() const { return step_; }

 private:
  steady_lengths lengths(Tensor tensor);

  EngineRef engine_;
  steady_step step_ = {};
  std::array<Tensor, 1 + STEADY_MAX_KINDS> tensors_;  // an array, so that a call allocates nothing
  int tensor_count_ = 0;
};

/// How a layer's lse lies and what it holds.
struct LseForm {
  bool empty_is_positive;
  bool heads_first;  // [batch, heads, queries], as FlashMLA has it
};

struct LayerTensors {
  /// They stay alive if `keep`.
  LayerTensors(nanobind::handle q, nanobind::handle out, nanobind::handle lse,
               nanobind::handle sink, nanobind::handle window_pages, nanobind::handle window_slots,
               nanobind::handle compressed_pages, nanobind::handle compressed_slots, bool keep);

  Tensor q, out, lse, sink;
  Tensor window_pages, window_slots, compressed_pages, compressed_slots;
};

/// Requests of a call that takes them from q.
int batch_of(const Tensor& q);

/// One layer's tensors, checked against the engine.
class Layer {
 public:
  Layer(EngineRef engine, int kind, LayerTensors tensors, LseForm lse_form);

  const EngineRef& engine() const { return engine_; }
  const steady_layer& get() const { return layer_; }
  /// Requests that all of its tensors have room for.
  int batch() const { return batch_; }
  /// Requests of q.
  int queries_batch() const { return batch_of(tensors_.q); }

 private:
  steady_strides vectors(const Tensor& tensor, bool of_head_dim);
  steady_strides heads_first(const Tensor& lse);
  steady_pool pool(const char* pages_name, const char* slots_name, const Tensor& pages,
                   const Tensor& slots, const steady_pool_shape& shape);
  void has_room_for(int64_t batch);

  EngineRef engine_;
  LayerTensors tensors_;
  steady_layer layer_ = {};
  int batch_ = STEADY_MAX_BATCH;
};

class Graph {
 public:
  Graph(EngineRef engine, steady_graph* handle, Kept kept)
      : engine_(std::move(engine)), kept_(std::move(kept)), handle_(handle) {}
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void replay(steady_stream stream) const;
  const EngineRef& engine() const { return engine_; }

 private:
  EngineRef engine_;
  Kept kept_;
  steady_graph* handle_;
};

}  // namespace steady::python
