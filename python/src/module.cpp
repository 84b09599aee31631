// SPDX-License-Identifier: Apache-2.0
// The module steady._core: the C API's functions and nouns for Python, with their docstrings.
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <utility>

#include "attend.hpp"
#include "calls.hpp"
#include "docs.hpp"
#include "fail.hpp"
#include "objects.hpp"
#include "steady/steady.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace steady::python {
namespace {

constexpr double kSoftmaxScale = 0.04419417382415922;  // 512^-0.5, DeepSeek-V4's

steady_backend backend_named(const std::string& name) {
  if (name == "auto") return STEADY_AUTO;
  std::string known = "auto";
  for (const steady_backend_info& info : steady::describe_backends()) {
    if (name == info.name) return info.backend;
    known += std::string(", ") + info.name;
  }
  refuse("backend is '", name, "'; this build has ", known);
}

/// A PoolShape, or any (page_tokens, max_tokens[, format]); None is no pool.
steady_pool_shape pool_shape(nb::handle object) {
  if (object.is_none()) return {};
  const nb::object fields = nb::steal(PySequence_Tuple(object.ptr()));
  if (!fields.is_valid()) throw nb::python_error();
  const size_t count = nb::len(fields);
  if (count != 2 && count != 3)
    refuse("a pool's shape has ", count, " entries; it is (page_tokens, max_tokens[, format])");
  std::string format = "fp8";
  int32_t page_tokens = 0, max_tokens = 0;
  if (!nb::try_cast(fields[0], page_tokens) || !nb::try_cast(fields[1], max_tokens) ||
      (count == 3 && !nb::try_cast(fields[2], format)))
    refuse("a pool's shape is ", nb::str(fields).c_str(),
           "; it is (page_tokens, max_tokens[, format]), two ints of 32 bits and 'fp8' or 'bf16'");
  return {format_named(format), page_tokens, max_tokens};
}

/// One pool's shape or a sequence with one for each kind.
void read_kinds(nb::handle compressed, steady_shape* shape) {
  shape->kinds = 1;
  if (compressed.is_none()) return;
  const nb::object entries = nb::steal(PySequence_Tuple(compressed.ptr()));
  if (!entries.is_valid()) throw nb::python_error();
  const size_t count = nb::len(entries);
  if (count > 0 && PyLong_Check(nb::object(entries[0]).ptr())) {
    shape->compressed[0] = pool_shape(compressed);
    return;
  }
  if (count > STEADY_MAX_KINDS)
    refuse("compressed has ", count, " entries; an engine has at most ",
           static_cast<int>(STEADY_MAX_KINDS), " kinds");
  shape->kinds = count > 0 ? static_cast<int32_t>(count) : 1;
  for (size_t kind = 0; kind < count; ++kind)
    shape->compressed[kind] = pool_shape(nb::object(entries[kind]));
}

/// A Pool, or any (pages, slots); None is no pool. The caller's object keeps both alive.
std::pair<nb::object, nb::object> pool_of(const char* name, nb::handle object) {
  if (object.is_none()) return {nb::none(), nb::none()};
  if (!PyTuple_Check(object.ptr()) || nb::len(object) != 2)
    refuse(name, " is ", nb::type_name(object.type()).c_str(),
           "; a tuple (pages, slots) is needed");
  return {object[0], object[1]};
}

std::shared_ptr<Engine> make_engine(int heads, nb::handle window, nb::handle compressed,
                                    int queries, int max_batch, double softmax_scale,
                                    const std::string& backend, int device, int threads,
                                    bool checked) {
  steady_shape shape = {};
  shape.struct_size = sizeof shape;
  shape.heads = heads;
  shape.queries = queries;
  shape.max_batch = max_batch;
  shape.softmax_scale = static_cast<float>(softmax_scale);
  shape.window = pool_shape(window);
  read_kinds(compressed, &shape);
  steady_options options = {};
  options.struct_size = sizeof options;
  options.backend = backend_named(backend);
  options.device = device;
  options.threads = threads;
  options.checked = checked;
  return std::make_shared<Engine>(shape, options);
}

void bind_engine(nb::module_& module) {
  nb::class_<Engine>(module, "Engine", nb::is_weak_referenceable(), docs::kEngine)
      .def(nb::new_(&make_engine), "heads"_a, "window"_a.none() = nb::none(),
           "compressed"_a.none() = nb::none(), nb::kw_only(), "queries"_a = 1, "max_batch"_a = 1,
           "softmax_scale"_a = kSoftmaxScale, "backend"_a = "auto", "device"_a = 0, "threads"_a = 0,
           "checked"_a = false)
      .def("plan", &plan_objects, "workspace"_a, "step"_a, "stream"_a.none() = nb::none(),
           docs::kPlan)
      .def("decode", &decode_objects, "workspace"_a, "step"_a, "layer"_a,
           "stream"_a.none() = nb::none(), docs::kDecode)
      .def("capture", &capture, "stream"_a, "record"_a, docs::kCapture)
      .def("report", &report, "workspace"_a, "stream"_a.none() = nb::none(), docs::kReport)
      .def_prop_ro("backend", &Engine::backend_name, "Name of the backend that computes.")
      .def_prop_ro("cuda_device", &Engine::cuda_device,
                   "Number of the CUDA device, or -1 on the CPU.")
      .def_prop_ro(
          "workspace_bytes",
          [](const Engine& engine) { return steady_workspace_bytes(engine.get()); },
          "Bytes of scratch that a stream of steps needs.")
      .def_prop_ro(
          "heads", [](const Engine& engine) { return engine.shape().heads; }, "Query heads.")
      .def_prop_ro(
          "queries", [](const Engine& engine) { return engine.shape().queries; },
          "Query tokens a request.")
      .def_prop_ro(
          "max_batch", [](const Engine& engine) { return engine.shape().max_batch; },
          "Requests of a step at most.")
      .def_prop_ro(
          "kinds", [](const Engine& engine) { return engine.shape().kinds; },
          "Kinds of layer, 1 or more.");
}

void bind_objects(nb::module_& module) {
  nb::class_<Workspace>(module, "Workspace", docs::kWorkspace)
      .def(nb::new_([](const std::shared_ptr<Engine>& engine, nb::handle memory) {
             return std::make_shared<Workspace>(engine, memory);
           }),
           "engine"_a, "memory"_a.none() = nb::none())
      .def_prop_ro(
          "bytes", [](const Workspace& workspace) { return workspace.get().bytes; },
          "Bytes of the scratch, the engine's workspace_bytes or more.");
  nb::class_<Stream>(module, "Stream", docs::kStream)
      .def(nb::new_([](const std::shared_ptr<Engine>& engine) {
             return std::make_shared<Stream>(engine);
           }),
           "engine"_a)
      .def("wait", &Stream::wait, docs::kWait)
      .def_prop_ro(
          "address", [](const Stream& stream) { return reinterpret_cast<uintptr_t>(stream.get()); },
          "The backend's handle as an int.");
  nb::class_<Step>(module, "Step", docs::kStep)
      .def(nb::new_([](const std::shared_ptr<Engine>& engine, int batch, nb::handle window,
                       nb::handle compressed) {
             return std::make_shared<Step>(engine, batch, window, compressed, true);
           }),
           "engine"_a, "batch"_a, "window_lengths"_a.none() = nb::none(),
           "compressed_lengths"_a.none() = nb::none())
      .def_prop_ro(
          "batch", [](const Step& step) { return step.get().batch; }, "Requests of the step.");
  nb::class_<Layer>(module, "Layer", docs::kLayer)
      .def(nb::new_([](const std::shared_ptr<Engine>& engine, nb::handle q, nb::handle out,
                       nb::handle window, nb::handle compressed, int kind, nb::handle lse,
                       nb::handle sink, bool empty_lse_is_positive) {
             const auto [window_pages, window_slots] = pool_of("window", window);
             const auto [pages, slots] = pool_of("compressed", compressed);
             return std::make_shared<Layer>(
                 engine, kind,
                 LayerTensors(q, out, lse, sink, window_pages, window_slots, pages, slots, true),
                 LseForm{empty_lse_is_positive, false});
           }),
           "engine"_a, "q"_a.none(), "out"_a.none(), "window"_a.none() = nb::none(),
           "compressed"_a.none() = nb::none(), nb::kw_only(), "kind"_a = 0,
           "lse"_a.none() = nb::none(), "sink"_a.none() = nb::none(),
           "empty_lse_is_positive"_a = false)
      .def_prop_ro("batch", &Layer::batch, "Requests that all of its tensors have room for.");
  nb::class_<Graph>(module, "Graph", docs::kGraph)
      .def("replay", &replay, "stream"_a.none() = nb::none(), docs::kReplay);
}

void bind_functions(nb::module_& module) {
  module.def("backends", &backends, docs::kBackends);
  module.def("pack_token", &pack_token, "values"_a, "page"_a, "page_tokens"_a, "token"_a,
             "format"_a = "fp8", docs::kPackToken);
  module.def("unpack_token", &unpack_token, "page"_a, "page_tokens"_a, "token"_a, "values"_a,
             "format"_a = "fp8", docs::kUnpackToken);
  module.def(
      "page_bytes",
      [](int page_tokens, const std::string& format) {
        return steady_page_bytes(format_named(format), page_tokens);
      },
      "page_tokens"_a, "format"_a = "fp8", docs::kPageBytes);
  module.def("plan_tensors", &plan_tensors, "engine_named"_a, "ask_stream"_a, "name"_a,
             "workspace"_a, "order"_a, "batch"_a, "window_lengths"_a.none(),
             "compressed_lengths"_a.none(), docs::kPlanTensors);
  module.def("decode_tensors", &decode_tensors, "engine_named"_a, "ask_stream"_a, "name"_a,
             "workspace"_a, "order"_a, "kind"_a, "q"_a, "out"_a, "lse"_a.none(), "sink"_a.none(),
             "window_pages"_a.none(), "window_slots"_a.none(), "compressed_pages"_a.none(),
             "compressed_slots"_a.none(), "empty_lse_is_positive"_a = false, docs::kDecodeTensors);
  nb::class_<EngineCache>(module, "EngineCache", docs::kEngineCache)
      .def(nb::init<nb::callable, size_t>(), "make"_a, "capacity"_a)
      .def("cache_clear", &EngineCache::clear, "Forgets all engines.");
  module.def("attend_tensors", &attend_tensors, "engines"_a, "allocate"_a, "ask_stream"_a, "q"_a,
             "out"_a, "lse"_a.none(), "sink"_a.none(), "window_pages"_a.none(),
             "window_slots"_a.none(), "window_lengths"_a.none(), "compressed_pages"_a.none(),
             "compressed_slots"_a.none(), "compressed_lengths"_a.none(), "softmax_scale"_a,
             "empty_lse_is_positive"_a = false, "heads_first_lse"_a = false, docs::kAttendTensors);
}

}  // namespace
}  // namespace steady::python

NB_MODULE(_core, module) {
  using namespace steady::python;
  nanobind::set_leak_warnings(false);  // steady.torch keeps its engines to the end of the process
  module.doc() = "The C interface of Steady, thinly.";
  add_exceptions(module);
  bind_engine(module);
  bind_objects(module);
  bind_functions(module);
  module.attr("__version__") = steady_version();
  module.attr("HEAD_DIM") = STEADY_HEAD_DIM;
  module.attr("FP8_TOKEN_BYTES") = STEADY_FP8_TOKEN_BYTES;
  module.attr("BF16_TOKEN_BYTES") = STEADY_BF16_TOKEN_BYTES;
  module.attr("MAX_HEADS") = static_cast<int>(STEADY_MAX_HEADS);
  module.attr("MAX_QUERIES") = static_cast<int>(STEADY_MAX_QUERIES);
  module.attr("MAX_BATCH") = static_cast<int>(STEADY_MAX_BATCH);
  module.attr("MAX_TOKENS") = static_cast<int>(STEADY_MAX_TOKENS);
  module.attr("MAX_KINDS") = static_cast<int>(STEADY_MAX_KINDS);
}
