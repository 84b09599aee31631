// SPDX-License-Identifier: Apache-2.0
// Checked objects or tensors in, one call of the C API with the interpreter unlocked out.
#include "calls.hpp"

#include "fail.hpp"

namespace nb = nanobind;

namespace steady::python {

steady_cache_format format_named(const std::string& name) {
  if (name == "fp8") return STEADY_CACHE_FP8;
  if (name == "bf16") return STEADY_CACHE_BF16;
  refuse("format is '", name, "'; allowed is 'fp8' and 'bf16'");
}

namespace {

/// A Stream, or the address of one of the backend's streams as an int; None is the default stream.
struct StreamArgument {
  explicit StreamArgument(nb::handle object) {
    if (object.is_none()) return;
    if (PyLong_Check(object.ptr())) {
      handle = reinterpret_cast<steady_stream>(nb::cast<uintptr_t>(object));
      return;
    }
    if (!nb::isinstance<Stream>(object))
      refuse("stream is ", nb::type_name(object.type()).c_str(),
             "; allowed is a steady.Stream, the address of a CUDA stream as an int, or None");
    stream = nb::cast<Stream*>(object);
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

template <class Object>
void expect_engine(const char* what, const Object& object, const Engine& engine) {
  if (object.engine().get() != &engine)
    refuse(what, " was made for another engine; its shapes were checked against that one");
}

void plan(const Engine& engine, steady_workspace workspace, const Step& step,
          steady_stream stream) {
  steady_status status;
  {
    const nb::gil_scoped_release unlocked;
    status = steady_plan(engine.get(), workspace, &step.get(), stream);
  }
  check(status);
}

void decode(const Engine& engine, steady_workspace workspace, const steady_step& step,
            const Layer& layer, steady_stream stream) {
  if (layer.batch() < step.batch)
    refuse("the step's batch is ", step.batch, ", but the layer's tensors have room for ",
           layer.batch());
  steady_status status;
  {
    const nb::gil_scoped_release unlocked;
    status = steady_decode(engine.get(), workspace, &step, &layer.get(), stream);
  }
  check(status);
}

}  // namespace

void plan_objects(const std::shared_ptr<Engine>& engine,
                  const std::shared_ptr<Workspace>& workspace, const std::shared_ptr<Step>& step,
                  nb::handle stream) {
  const StreamArgument on(stream);
  expect_engine("workspace", *workspace, *engine);
  expect_engine("step", *step, *engine);
  plan(*engine, workspace->get(), *step, on.handle);
  on.keep_if_capturing(workspace, step);
}

void decode_objects(const std::shared_ptr<Engine>& engine,
                    const std::shared_ptr<Workspace>& workspace, const std::shared_ptr<Step>& step,
                    const std::shared_ptr<Layer>& layer, nb::handle stream) {
  const StreamArgument on(stream);
  expect_engine("workspace", *workspace, *engine);
  expect_engine("step", *step, *engine);
  expect_engine("layer", *layer, *engine);
  decode(*engine, workspace->get(), step->get(), *layer, on.handle);
  on.keep_if_capturing(workspace, step, layer);
}

std::shared_ptr<Graph> capture(const std::shared_ptr<Engine>& engine,
                               const std::shared_ptr<Stream>& stream, nb::callable record) {
  expect_engine("stream", *stream, *engine);
  check(steady_capture_begin(engine->get(), stream->get()));
  stream->captured.emplace();
  steady_graph* handle = nullptr;
  try {
    record();
  } catch (...) {
    stream->captured.reset();
    if (steady_capture_end(engine->get(), stream->get(), &handle) == STEADY_OK)
      steady_graph_destroy(handle);
    throw;
  }
  Kept kept = std::move(*stream->captured);
  stream->captured.reset();
  check(steady_capture_end(engine->get(), stream->get(), &handle));
  return std::make_shared<Graph>(engine, handle, std::move(kept));
}

namespace {

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

void replay(const Graph& graph, nb::handle stream) { graph.replay(StreamArgument(stream).handle); }

nb::dict report(const std::shared_ptr<Engine>& engine, const Workspace& workspace,
                nb::handle stream) {
  const StreamArgument on(stream);
  expect_engine("workspace", workspace, *engine);
  steady_report found = {};
  found.struct_size = sizeof found;
  steady_status status;
  {
    const nb::gil_scoped_release unlocked;
    status = steady_read_report(engine->get(), workspace.get(), on.handle, &found);
  }
  check(status);
  nb::dict dict;
  dict["negative_length"] = fault_dict(found.negative_length);
  dict["long_length"] = fault_dict(found.long_length);
  dict["stray_slot"] = fault_dict(found.stray_slot);
  return dict;
}

namespace {

/// The scratch of a call that gets it as a tensor.
steady_workspace borrowed_workspace(const Engine& engine, nb::handle object) {
  const Tensor memory("workspace", object, Access::kWrite, false);
  if (!memory) refuse("workspace is None; it must be a tensor");
  memory.expect_device(engine.cuda_device());
  if (!memory.is_packed_from(0)) refuse(memory.describe(), "; it must be contiguous");
  return {memory.data<void>(),
          static_cast<size_t>(memory.elements_from(0) * memory.element_bits() / 8)};
}

}  // namespace

void plan_tensors(const std::shared_ptr<Engine>& engine, nb::handle workspace, int batch,
                  nb::handle window_lengths, nb::handle compressed_lengths, uintptr_t stream) {
  const Step step(engine, batch, window_lengths, compressed_lengths, false);
  plan(*engine, borrowed_workspace(*engine, workspace), step,
       reinterpret_cast<steady_stream>(stream));
}

void decode_tensors(const std::shared_ptr<Engine>& engine, nb::handle workspace, int kind,
                    nb::handle q, nb::handle out, nb::handle lse, nb::handle sink,
                    nb::handle window_pages, nb::handle window_slots, nb::handle compressed_pages,
                    nb::handle compressed_slots, uintptr_t stream) {
  const Layer layer(
      engine, kind,
      {q, out, lse, sink, window_pages, window_slots, compressed_pages, compressed_slots}, false);
  steady_step step = {};
  step.struct_size = sizeof step;
  step.batch = layer.queries_batch();
  decode(*engine, borrowed_workspace(*engine, workspace), step, layer,
         reinterpret_cast<steady_stream>(stream));
}

nb::list backends() {
  nb::list all;
  steady_backend_info info = {};
  info.struct_size = sizeof info;
  for (int32_t i = 0; i < steady_backend_count(); ++i) {
    check(steady_describe_backend(i, &info));
    nb::dict backend;
    backend["name"] = info.name;
    backend["usable"] = info.usable != 0;
    backend["chosen"] = info.chosen != 0;
    backend["detail"] = info.detail;
    all.append(backend);
  }
  return all;
}

namespace {

/// 512 float32 on the host.
float* token_values(const Tensor& values) {
  values.expect_device(-1);
  values.expect_type({kFloat32}, "float32");
  if (values.dimensions() != 1 || values.extent(0) != STEADY_HEAD_DIM || !values.is_packed_from(0))
    refuse(values.describe(), "; it must be contiguous, [512]");
  return values.data<float>();
}

void* token_page(const Tensor& page, steady_cache_format format, int page_tokens) {
  page.expect_device(-1);
  const int64_t bytes = page.elements_from(0) * page.element_bits() / 8;
  if (!page.is_packed_from(0) || bytes < steady_page_bytes(format, page_tokens))
    refuse(page.describe(), "; a page of ", page_tokens, " tokens must be contiguous, ",
           steady_page_bytes(format, page_tokens), " bytes or more");
  return page.data<void>();
}

}  // namespace

void pack_token(nb::handle values, nb::handle page, int page_tokens, int token,
                const std::string& format) {
  const steady_cache_format named = format_named(format);
  const Tensor from("values", values, Access::kRead, false);
  const Tensor to("page", page, Access::kWrite, false);
  if (!from || !to) refuse("values and page must be tensors, not None");
  check(steady_pack_token(named, token_values(from), token_page(to, named, page_tokens),
                          page_tokens, token));
}

void unpack_token(nb::handle page, int page_tokens, int token, nb::handle values,
                  const std::string& format) {
  const steady_cache_format named = format_named(format);
  const Tensor from("page", page, Access::kRead, false);
  const Tensor to("values", values, Access::kWrite, false);
  if (!from || !to) refuse("page and values must be tensors, not None");
  check(steady_unpack_token(named, token_page(from, named, page_tokens), page_tokens, token,
                            token_values(to)));
}

}  // namespace steady::python
