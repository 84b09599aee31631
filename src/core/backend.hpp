// SPDX-License-Identifier: Apache-2.0
// What a backend provides. docs/new-backend.md tells how to write one.
#pragma once

#include <memory>
#include <string>

#include "core/shape.hpp"
#include "core/status.hpp"
#include "steady/steady.h"

namespace steady {

class Graph {
 public:
  virtual ~Graph() = default;
  virtual Status replay(steady_stream) const = 0;
};

/// Immutable after creation: every const function may run on several threads at once, with
/// different workspaces. Arguments have been checked; workspaces are aligned and large enough.
/// plan, decode and replay neither allocate nor wait for the device, and no function reads device
/// memory from the host except read_report.
class Engine {
 public:
  virtual ~Engine() = default;

  virtual size_t workspace_bytes() const = 0;
  virtual Status plan(void* workspace, const Step&, steady_stream) const = 0;
  virtual Status decode(void* workspace, const Step&, const Layer&, steady_stream) const = 0;
  virtual Status read_report(void* workspace, steady_stream, steady_report* out) const = 0;

  virtual Status capture_begin(steady_stream) const = 0;
  virtual Status capture_end(steady_stream, std::unique_ptr<Graph>* out) const = 0;

  virtual Status stream_create(steady_stream* out) const = 0;
  virtual void stream_destroy(steady_stream) const = 0;
  virtual Status stream_wait(steady_stream) const = 0;

  virtual Status device_alloc(size_t bytes, void** out) const = 0;
  virtual void device_free(void*) const = 0;
  virtual Status upload(void* device, const void* host, size_t bytes, steady_stream) const = 0;
  virtual Status download(void* host, const void* device, size_t bytes, steady_stream) const = 0;
};

/// A row of the registry.
struct Backend {
  steady_backend id;
  const char* name;
  bool (*probe)(std::string* detail);  ///< whether it can run here, and on what, or why not
  Status (*create)(const Shape&, const Options&, std::unique_ptr<Engine>* out);
};

}  // namespace steady
