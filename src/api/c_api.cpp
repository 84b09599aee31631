// SPDX-License-Identifier: Apache-2.0
// The C functions: check what callers hand over, then call the engine.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>

#include "api/error.hpp"
#include "api/registry.hpp"
#include "core/backend.hpp"
#include "core/workspace.hpp"
#include "steady/device.h"
#include "steady/steady.h"

using steady::guarded;
using steady::invalid;
using steady::Status;

struct steady_engine {
  steady::Shape shape;
  steady::Options options;
  steady_backend backend;
  std::unique_ptr<steady::Engine> engine;
};

struct steady_graph {
  std::unique_ptr<steady::Graph> graph;
};

namespace {

template <class T>
Status check_not_null(const char* name, const T* pointer) {
  return pointer != nullptr ? Status() : invalid(name, " is NULL");
}

Status check_workspace(const steady_engine& engine, const steady_workspace& workspace) {
  STEADY_RETURN_IF_ERROR(check_not_null("steady_workspace.data", workspace.data));
  if (reinterpret_cast<uintptr_t>(workspace.data) % steady::kWorkspaceAlignment != 0) {
    return invalid("steady_workspace.data must be aligned to ", steady::kWorkspaceAlignment,
                   " bytes");
  }
  const size_t needed = engine.engine->workspace_bytes();
  if (workspace.bytes >= needed) return {};
  return invalid("steady_workspace.bytes is ", workspace.bytes, "; this engine needs ", needed,
                 " (steady_workspace_bytes)");
}

/// Writes as much of `text` as fits, and the ending zero.
template <size_t kSize>
void copy_text(const std::string& text, char (&out)[kSize]) {
  const size_t length = std::min(text.size(), kSize - 1);
  *std::copy_n(text.data(), length, out) = '\0';
}

}  // namespace

const char* steady_version(void) { return STEADY_VERSION; }

const char* steady_status_name(steady_status status) {
  switch (status) {
    case STEADY_OK:
      return "STEADY_OK";
    case STEADY_INVALID_ARGUMENT:
      return "STEADY_INVALID_ARGUMENT";
    case STEADY_UNSUPPORTED:
      return "STEADY_UNSUPPORTED";
    case STEADY_OUT_OF_MEMORY:
      return "STEADY_OUT_OF_MEMORY";
    case STEADY_NOT_PLANNED:
      return "STEADY_NOT_PLANNED";
    case STEADY_INTERNAL:
      return "STEADY_INTERNAL";
    case STEADY_DEVICE_FAILED:
      return "STEADY_DEVICE_FAILED";
  }
  return "unknown status";
}

const char* steady_last_error(void) { return steady::last_error().c_str(); }

steady_status steady_engine_create(const steady_shape* shape, const steady_options* options,
                                   steady_engine** out) {
  return guarded([&]() -> Status {
    STEADY_RETURN_IF_ERROR(check_not_null("out", out));
    *out = nullptr;
    auto engine = std::make_unique<steady_engine>();
    STEADY_RETURN_IF_ERROR(steady::check_shape(shape, &engine->shape));
    STEADY_RETURN_IF_ERROR(steady::check_options(options, &engine->options));
    const steady::Backend* backend = nullptr;
    STEADY_RETURN_IF_ERROR(steady::find_backend(engine->options.backend, &backend));
    engine->backend = backend->id;
    STEADY_RETURN_IF_ERROR(backend->create(engine->shape, engine->options, &engine->engine));
    *out = engine.release();
    return {};
  });
}

void steady_engine_destroy(steady_engine* engine) { delete engine; }

steady_backend steady_engine_backend(const steady_engine* engine) {
  return engine != nullptr ? engine->backend : STEADY_AUTO;
}

size_t steady_workspace_bytes(const steady_engine* engine) {
  return engine != nullptr ? engine->engine->workspace_bytes() : 0;
}

steady_status steady_plan(const steady_engine* engine, steady_workspace workspace,
                          const steady_step* step, steady_stream stream) {
  return guarded([&]() -> Status {
    STEADY_RETURN_IF_ERROR(check_not_null("engine", engine));
    STEADY_RETURN_IF_ERROR(check_workspace(*engine, workspace));
    steady::Step checked;
    STEADY_RETURN_IF_ERROR(steady::check_step(engine->shape, step, &checked));
    return engine->engine->plan(workspace.data, checked, stream);
  });
}

steady_status steady_decode(const steady_engine* engine, steady_workspace workspace,
                            const steady_step* step, const steady_layer* layer,
                            steady_stream stream) {
  return guarded([&]() -> Status {
    STEADY_RETURN_IF_ERROR(check_not_null("engine", engine));
    STEADY_RETURN_IF_ERROR(check_workspace(*engine, workspace));
    steady::Step checked_step;
    STEADY_RETURN_IF_ERROR(steady::check_step(engine->shape, step, &checked_step));
    steady::Layer checked_layer;
    STEADY_RETURN_IF_ERROR(steady::check_layer(engine->shape, checked_step, layer, &checked_layer));
    return engine->engine->decode(workspace.data, checked_step, checked_layer, stream);
  });
}

steady_status steady_capture_begin(const steady_engine* engine, steady_stream stream) {
  return guarded([&]() -> Status {
    STEADY_RETURN_IF_ERROR(check_not_null("engine", engine));
    return engine->engine->capture_begin(stream);
  });
}

steady_status steady_capture_end(const steady_engine* engine, steady_stream stream,
                                 steady_graph** out) {
  return guarded([&]() -> Status {
    STEADY_RETURN_IF_ERROR(check_not_null("engine", engine));
    STEADY_RETURN_IF_ERROR(check_not_null("out", out));
    *out = nullptr;
    auto graph = std::make_unique<steady_graph>();
    STEADY_RETURN_IF_ERROR(engine->engine->capture_end(stream, &graph->graph));
    *out = graph.release();
    return {};
  });
}

steady_status steady_graph_replay(const steady_graph* graph, steady_stream stream) {
  return guarded([&]() -> Status {
    STEADY_RETURN_IF_ERROR(check_not_null("graph", graph));
    return graph->graph->replay(stream);
  });
}

void steady_graph_destroy(steady_graph* graph) { delete graph; }

steady_status steady_read_report(const steady_engine* engine, steady_workspace workspace,
                                 steady_stream stream, steady_report* out) {
  return guarded([&]() -> Status {
    STEADY_RETURN_IF_ERROR(check_not_null("engine", engine));
    STEADY_RETURN_IF_ERROR(check_workspace(*engine, workspace));
    STEADY_RETURN_IF_ERROR(steady::check_struct(out, "steady_report"));
    if (!engine->options.checked) {
      return invalid("the engine is not checked; create it with steady_options.checked = 1");
    }
    return engine->engine->read_report(workspace.data, stream, out);
  });
}

int32_t steady_backend_count(void) { return static_cast<int32_t>(steady::backends().size()); }

steady_status steady_describe_backend(int32_t index, steady_backend_info* out) {
  return guarded([&]() -> Status {
    STEADY_RETURN_IF_ERROR(steady::check_struct(out, "steady_backend_info"));
    const auto all = steady::backends();
    if (index < 0 || index >= static_cast<int32_t>(all.size())) {
      return invalid("index is ", index, "; this build has backends 0 to ", all.size() - 1);
    }
    const steady::Backend& backend = *all[index];
    const steady::Backend* chosen = nullptr;
    const bool any_chosen = steady::choose_backend(&chosen).ok();
    std::string detail;
    out->backend = backend.id;
    out->usable = backend.probe(&detail) ? 1 : 0;
    out->chosen = any_chosen && chosen == &backend ? 1 : 0;
    copy_text(backend.name, out->name);
    copy_text(detail, out->detail);
    return {};
  });
}

steady_status steady_device_alloc(const steady_engine* engine, size_t bytes, void** out) {
  return guarded([&]() -> Status {
    STEADY_RETURN_IF_ERROR(check_not_null("out", out));
    *out = nullptr;
    STEADY_RETURN_IF_ERROR(check_not_null("engine", engine));
    return engine->engine->device_alloc(bytes, out);
  });
}

void steady_device_free(const steady_engine* engine, void* memory) {
  if (engine != nullptr && memory != nullptr) engine->engine->device_free(memory);
}

steady_status steady_upload(const steady_engine* engine, void* device, const void* host,
                            size_t bytes, steady_stream stream) {
  return guarded([&]() -> Status {
    STEADY_RETURN_IF_ERROR(check_not_null("engine", engine));
    if (bytes > 0) {
      STEADY_RETURN_IF_ERROR(check_not_null("device", device));
      STEADY_RETURN_IF_ERROR(check_not_null("host", host));
    }
    return engine->engine->upload(device, host, bytes, stream);
  });
}

steady_status steady_download(const steady_engine* engine, void* host, const void* device,
                              size_t bytes, steady_stream stream) {
  return guarded([&]() -> Status {
    STEADY_RETURN_IF_ERROR(check_not_null("engine", engine));
    if (bytes > 0) {
      STEADY_RETURN_IF_ERROR(check_not_null("host", host));
      STEADY_RETURN_IF_ERROR(check_not_null("device", device));
    }
    return engine->engine->download(host, device, bytes, stream);
  });
}

steady_status steady_stream_create(const steady_engine* engine, steady_stream* out) {
  return guarded([&]() -> Status {
    STEADY_RETURN_IF_ERROR(check_not_null("out", out));
    *out = nullptr;
    STEADY_RETURN_IF_ERROR(check_not_null("engine", engine));
    return engine->engine->stream_create(out);
  });
}

void steady_stream_destroy(const steady_engine* engine, steady_stream stream) {
  if (engine != nullptr && stream != nullptr) engine->engine->stream_destroy(stream);
}

steady_status steady_stream_wait(const steady_engine* engine, steady_stream stream) {
  return guarded([&]() -> Status {
    STEADY_RETURN_IF_ERROR(check_not_null("engine", engine));
    return engine->engine->stream_wait(stream);
  });
}
