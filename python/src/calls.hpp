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

// With tensors that are good for this call. The batch of a decode is that of q.
void plan_tensors(const std::shared_ptr<Engine>& engine, Object workspace, int batch,
                  Object window_lengths, Object compressed_lengths, uintptr_t stream);
void decode_tensors(const std::shared_ptr<Engine>& engine, Object workspace, int kind, Object q,
                    Object out, Object lse, Object sink, Object window_pages, Object window_slots,
                    Object compressed_pages, Object compressed_slots, bool empty_lse_is_positive,
                    uintptr_t stream);

nanobind::list backends();

steady_cache_format format_named(const std::string& name);
void pack_token(Object values, Object page, int page_tokens, int token, const std::string& format);
void unpack_token(Object page, int page_tokens, int token, Object values,
                  const std::string& format);

}  // namespace steady::python
