// SPDX-License-Identifier: Apache-2.0
// The C++20 door: ownership and exceptions over steady.h and device.h, header only. Every function
// does what its C twin does and throws steady::Error where that one fails.
#ifndef STEADY_STEADY_HPP_
#define STEADY_STEADY_HPP_

#include <cstddef>
#include <memory>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#include "steady/device.h"
#include "steady/steady.h"

namespace steady {

/// A failed call: its status, and its sentence as what().
class Error : public std::runtime_error {
 public:
  explicit Error(steady_status status) : std::runtime_error(steady_last_error()), status_(status) {}
  steady_status status() const { return status_; }

 private:
  steady_status status_;
};

inline void check(steady_status status) {
  if (status != STEADY_OK) throw Error(status);
}

/// A zeroed C struct with its struct_size set: auto shape = steady::make<steady_shape>();
template <class T>
T make() {
  T value{};
  value.struct_size = sizeof(T);
  return value;
}

inline std::vector<steady_backend_info> describe_backends() {
  std::vector<steady_backend_info> all;
  auto info = make<steady_backend_info>();
  for (int32_t i = 0; i < steady_backend_count(); ++i) {
    check(steady_describe_backend(i, &info));
    all.push_back(info);
  }
  return all;
}

/// A step that was captured. Replays as long as its engine and every pointer it was given live.
class Graph {
 public:
  explicit Graph(steady_graph* owned) : handle_(owned) {}
  void replay(steady_stream stream = nullptr) const {
    check(steady_graph_replay(handle_.get(), stream));
  }

 private:
  struct Destroy {
    void operator()(steady_graph* graph) const { steady_graph_destroy(graph); }
  };
  std::unique_ptr<steady_graph, Destroy> handle_;
};

/// Immutable; may be used from several threads. Outlives what it made.
class Engine {
 public:
  explicit Engine(const steady_shape& shape, steady_options options = make<steady_options>()) {
    steady_engine* engine = nullptr;
    check(steady_engine_create(&shape, &options, &engine));
    handle_.reset(engine);
  }

  steady_backend backend() const { return steady_engine_backend(get()); }
  size_t workspace_bytes() const { return steady_workspace_bytes(get()); }

  void plan(steady_workspace workspace, const steady_step& step,
            steady_stream stream = nullptr) const {
    check(steady_plan(get(), workspace, &step, stream));
  }
  void decode(steady_workspace workspace, const steady_step& step, const steady_layer& layer,
              steady_stream stream = nullptr) const {
    check(steady_decode(get(), workspace, &step, &layer, stream));
  }

  /// Captures what `record` plans and decodes on `stream`. Ends the capture if `record` throws.
  template <class Record>
  Graph capture(steady_stream stream, Record&& record) const {
    check(steady_capture_begin(get(), stream));
    steady_graph* graph = nullptr;
    try {
      std::forward<Record>(record)();
    } catch (...) {
      if (steady_capture_end(get(), stream, &graph) == STEADY_OK) steady_graph_destroy(graph);
      throw;
    }
    check(steady_capture_end(get(), stream, &graph));
    return Graph(graph);
  }

  steady_report report(steady_workspace workspace, steady_stream stream = nullptr) const {
    auto out = make<steady_report>();
    check(steady_read_report(get(), workspace, stream, &out));
    return out;
  }

  void upload(void* device, const void* host, size_t bytes, steady_stream stream = nullptr) const {
    check(steady_upload(get(), device, host, bytes, stream));
  }
  void download(void* host, const void* device, size_t bytes,
                steady_stream stream = nullptr) const {
    check(steady_download(get(), host, device, bytes, stream));
  }

  const steady_engine* get() const { return handle_.get(); }

 private:
  struct Destroy {
    void operator()(steady_engine* engine) const { steady_engine_destroy(engine); }
  };
  std::unique_ptr<steady_engine, Destroy> handle_;
};

/// `count` elements of device memory, uninitialised.
template <class T>
class DeviceArray {
 public:
  DeviceArray(const Engine& engine, size_t count)
      : count_(count), memory_(allocate(engine, count), Free{engine.get()}) {}

  T* data() const { return static_cast<T*>(memory_.get()); }
  size_t size() const { return count_; }

 private:
  struct Free {
    const steady_engine* engine;
    void operator()(void* memory) const { steady_device_free(engine, memory); }
  };
  static void* allocate(const Engine& engine, size_t count) {
    if (count > static_cast<size_t>(-1) / sizeof(T)) throw std::bad_alloc();
    void* memory = nullptr;
    check(steady_device_alloc(engine.get(), count * sizeof(T), &memory));
    return memory;
  }

  size_t count_;
  std::unique_ptr<void, Free> memory_;
};

/// Scratch for one stream of steps.
class Workspace {
 public:
  explicit Workspace(const Engine& engine) : memory_(engine, engine.workspace_bytes()) {}
  operator steady_workspace() const { return {memory_.data(), memory_.size()}; }

 private:
  DeviceArray<std::byte> memory_;
};

/// A stream of the engine's device.
class Stream {
 public:
  explicit Stream(const Engine& engine) : handle_(create(engine), Destroy{engine.get()}) {}
  operator steady_stream() const { return handle_.get(); }
  void wait() const { check(steady_stream_wait(handle_.get_deleter().engine, handle_.get())); }

 private:
  struct Destroy {
    const steady_engine* engine;
    void operator()(void* stream) const { steady_stream_destroy(engine, stream); }
  };
  static steady_stream create(const Engine& engine) {
    steady_stream stream = nullptr;
    check(steady_stream_create(engine.get(), &stream));
    return stream;
  }

  std::unique_ptr<void, Destroy> handle_;
};

}  // namespace steady

#endif
