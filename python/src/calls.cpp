// SPDX-License-Identifier: Apache-2.0
// Checked objects or tensors in, one call of the C API with the interpreter unlocked out.
#include "calls.hpp"

#include <nanobind/stl/shared_ptr.h>

#include "exchange.hpp"
#include "fail.hpp"
#include "steady/steady.hpp"

namespace nb = nanobind;

namespace steady::python {

namespace {

template <class Object>
void expect_engine(const char* what, const Object& object, const Engine& engine) {
  if (object.engine().get() != &engine)
    refuse(what, " was made for another engine; it must be made with the one that it is used with");
}

/// A Stream, or the address of one of CUDA's as an int; None is the default stream.
struct StreamArgument {
  StreamArgument(nb::handle object, const Engine& engine) {
    if (object.is_none()) return;
    if (PyLong_Check(object.ptr())) {
      uintptr_t address = 0;
      if (!nb::try_cast(object, address))
        refuse("stream is ", nb::str(object).c_str(), ", which is no address");
      handle = stream_at(address, engine);
      return;
    }
    if (!nb::isinstance<Stream>(object))
      refuse("stream is ", nb::type_name(object.type()).c_str(),
             "; allowed is a steady.Stream, the address of a CUDA stream as an int, or None");
    stream = nb::cast<Stream*>(object);
    expect_engine("stream", *stream, engine);
    handle = stream->get();
  }

  /// What a call uses must outlive the graph that it becomes a part of.
  template <class... Objects>
  void keep_if_capturing(const Objects&... objects) const {
    if (stream != nullptr && stream->captured) (stream->captured->push_back(objects), ...);
  }

  Stream* stream = nullptr;
  steady_stream handle = nullptr;
};

void plan(const Engine& engine, steady_workspace workspace, const Step& step,
          steady_stream stream) {
  check(unlocked([&] { return steady_plan(engine.get(), workspace, &step.get(), stream); }));
}

void decode(const Engine& engine, steady_workspace workspace, const steady_step& step,
            const Layer& layer, steady_stream stream) {
  expect_room(layer, step);
  check(unlocked(
      [&] { return steady_decode(engine.get(), workspace, &step, &layer.get(), stream); }));
}

/// The scratch of a call that gets it as a tensor, and the stream of that tensor's library.
struct Surroundings {
  Surroundings(const Engine& engine, nb::handle object, const nb::callable& ask_stream) {
    const Tensor memory("workspace", object, Access::kWrite, false);
    if (!memory) refuse("workspace is None; it must be a tensor");
    workspace = workspace_in(memory, engine);
    stream = stream_at(current_stream(object, memory.device(), ask_stream), engine);
  }

  steady_workspace workspace;
  steady_stream stream;
};

std::shared_ptr<Engine> engine_of(const nb::callable& engine_named, nb::handle name) {
  auto engine = nb::cast<std::shared_ptr<Engine>>(engine_named(name));
  if (engine == nullptr) refuse("there is no engine ", nb::str(name).c_str());
  return engine;
}

nb::dict fault_dict(const steady_fault& fault) {
  nb::dict dict;
  dict["count"] = fault.count;
  dict["layer"] = fault.layer;
  dict["kind"] = fault.kind;
  dict["scope"] = fault.scope;
  dict["request"] = fault.request;
  dict["query"] = fault.query;
  dict["position"] = fault.position;
  dict["value"] = fault.value;
  return dict;
}

}  // namespace

steady_stream stream_at(uintptr_t address, const Engine& engine) {
  if (address != 0 && engine.cuda_device() < 0)
    refuse("stream is ", address,
           ", but this engine computes on the CPU, where a stream is a "
           "steady.Stream, or None");
  return reinterpret_cast<steady_stream>(address);
}

void expect_room(const Layer& layer, const steady_step& step) {
  if (layer.batch() < step.batch)
    refuse("the step's batch is ", step.batch, ", but the layer's tensors have room for ",
           layer.batch());
}

void plan_objects(const std::shared_ptr<Engine>& engine,
                  const std::shared_ptr<Workspace>& workspace, const std::shared_ptr<Step>& step,
                  nb::handle stream) {
  const StreamArgument on(stream, *engine);
  expect_engine("workspace", *workspace, *engine);
  expect_engine("step", *step, *engine);
  plan(*engine, workspace->get(), *step, on.handle);
  on.keep_if_capturing(workspace, step);
}

void decode_objects(const std::shared_ptr<Engine>& engine,
                    const std::shared_ptr<Workspace>& workspace, const std::shared_ptr<Step>& step,
                    const std::shared_ptr<Layer>& layer, nb::handle stream) {
  const StreamArgument on(stream, *engine);
  expect_engine("workspace", *workspace, *engine);
  expect_engine("step", *step, *engine);
  expect_engine("layer", *layer, *engine);
  decode(*engine, workspace->get(), step->get(), *layer, on.handle);
  on.keep_if_capturing(workspace, step, layer);
}

std::shared_ptr<Graph> capture(const std::shared_ptr<Engine>& engine,
                               const std::shared_ptr<Stream>& stream, nb::callable record) {
  expect_engine("stream", *stream, *engine);
  steady_graph* handle = nullptr;
  const auto end = [&] {
    return unlocked([&] { return steady_capture_end(engine->get(), stream->get(), &handle); });
  };
  check(unlocked([&] { return steady_capture_begin(engine->get(), stream->get()); }));
  stream->captured.emplace();
  try {
    record();
  } catch (...) {
    stream->captured.reset();
    if (end() == STEADY_OK) unlocked([&] { steady_graph_destroy(handle); });
    throw;
  }
  Kept kept = std::move(*stream->captured);
  stream->captured.reset();
  check(end());
  return std::make_shared<Graph>(engine, handle, std::move(kept));
}

void replay(const Graph& graph, nb::handle stream) {
  graph.replay(StreamArgument(stream, *graph.engine()).handle);
}

nb::dict report(const std::shared_ptr<Engine>& engine, const Workspace& workspace,
                nb::handle stream) {
  const StreamArgument on(stream, *engine);
  expect_engine("workspace", workspace, *engine);
  steady_report found = {};
  found.struct_size = sizeof found;
  check(unlocked(
      [&] { return steady_read_report(engine->get(), workspace.get(), on.handle, &found); }));
  nb::dict dict;
  dict["negative_length"] = fault_dict(found.negative_length);
  dict["long_length"] = fault_dict(found.long_length);
  dict["stray_slot"] = fault_dict(found.stray_slot);
  return dict;
}

void plan_tensors(nb::callable engine_named, nb::callable ask_stream, nb::handle name,
                  nb::handle workspace, nb::handle, int batch, nb::handle window_lengths,
                  nb::handle compressed_lengths) {
  const auto engine = engine_of(engine_named, name);
  const Step step(engine, batch, window_lengths, compressed_lengths, false);
  const Surroundings surroundings(*engine, workspace, ask_stream);
  plan(*engine, surroundings.workspace, step, surroundings.stream);
}

void decode_tensors(nb::callable engine_named, nb::callable ask_stream, nb::handle name,
                    nb::handle workspace, nb::handle, int kind, nb::handle q, nb::handle out,
                    nb::handle lse, nb::handle sink, nb::handle window_pages,
                    nb::handle window_slots, nb::handle compressed_pages,
                    nb::handle compressed_slots, bool empty_lse_is_positive) {
  const auto engine = engine_of(engine_named, name);
  const Layer layer(
      engine, kind,
      {q, out, lse, sink, window_pages, window_slots, compressed_pages, compressed_slots, false},
      {empty_lse_is_positive, false});
  steady_step step = {};
  step.struct_size = sizeof step;
  step.batch = layer.queries_batch();
  const Surroundings surroundings(*engine, workspace, ask_stream);
  decode(*engine, surroundings.workspace, step, layer, surroundings.stream);
}

nb::list backends() {
  nb::list all;
  for (const steady_backend_info& info : steady::describe_backends()) {
    nb::dict backend;
    backend["name"] = info.name;
    backend["usable"] = info.usable != 0;
    backend["chosen"] = info.chosen != 0;
    backend["detail"] = info.detail;
    all.append(backend);
  }
  return all;
}

}  // namespace steady::python
