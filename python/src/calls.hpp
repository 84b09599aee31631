// SPDX-License-Identifier: Apache-2.0
// The calls of the C API as Python makes them.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <memory>
#include <string>

#include "objects.hpp"

namespace steady::python {

using Object = nanobind::handle;

/// Whatever an int may be, on a CPU it is no stream.
steady_stream stream_at(uintptr_t address, const Engine& engine);
/// Refuses a layer whose tensors hold fewer requests than the step.
void expect_room(const Layer& layer, const steady_step& step);

// With objects that were made beforehand. `stream` is a Stream, an address as an int, or None.
void plan_objects(const std::shared_ptr<Engine>& engine,
                  const std::shared_ptr<Workspace>& workspace, const std::shared_ptr<Step>& step,
                  Object stream);
void decode_objects(const std::shared_ptr<Engine>& engine,
                    const std::shared_ptr<Workspace>& workspace, const std::shared_ptr<Step>& step,
                    const std::shared_ptr<Layer>& layer, Object stream);
std::shared_ptr<Graph> capture(const std::shared_ptr<Engine>& engine,
                               const std::shared_ptr<Stream>& stream, nanobind::callable record);
void replay(const Graph& graph, Object stream);
nanobind::dict report(const std::shared_ptr<Engine>& engine, const Workspace& workspace,
                      Object stream);

// With tensors that are good for this call, on the current stream of their library, which
// ask_stream(tensor) gives where it has no exchange table. engine_named(name) gives the engine;
// nothing is in `order`. The batch of a decode is that of q.
void plan_tensors(nanobind::callable engine_named, nanobind::callable ask_stream, Object name,
                  Object workspace, Object order, int batch, Object window_lengths,
                  Object compressed_lengths);
void decode_tensors(nanobind::callable engine_named, nanobind::callable ask_stream, Object name,
                    Object workspace, Object order, int kind, Object q, Object out, Object lse,
                    Object sink, Object window_pages, Object window_slots, Object compressed_pages,
                    Object compressed_slots, bool empty_lse_is_positive);

nanobind::list backends();

steady_cache_format format_named(const std::string& name);
void pack_token(Object values, Object page, int page_tokens, int token, const std::string& format);
void unpack_token(Object page, int page_tokens, int token, Object values,
                  const std::string& format);

}  // namespace steady::python
