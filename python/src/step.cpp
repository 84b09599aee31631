// SPDX-License-Identifier: Apache-2.0
// Tensors in, a steady_step and a steady_layer out, every shape checked against the engine's.
#include <algorithm>
#include <string>

#include "fail.hpp"
#include "objects.hpp"
#include "steady/cache_format.h"

namespace nb = nanobind;

namespace steady::python {
namespace {

/// How a tensor's requests and queries lie.
struct Rows {
  int64_t batch, batch_stride, query_stride;
};

[[noreturn]] void refuse_shape(const Tensor& tensor, const Engine& engine,
                               const std::string& tail) {
  const std::string queries = std::to_string(engine.shape().queries);
  refuse(tensor.describe(), "; it must be [batch, ", queries, ", ", tail, "]",
         engine.shape().queries == 1 ? " or [batch, " + tail + "]" : std::string());
}

/// Takes [batch, queries, tail…], and [batch, tail…] where there is one query. `tail` is how many
/// dimensions follow, `words` what they must be.
Rows rows_of(const Tensor& tensor, const Engine& engine, int tail, const std::string& words) {
  const int queries = engine.shape().queries;
  const bool has_queries = tensor.dimensions() == tail + 2;
  if (!has_queries && (queries != 1 || tensor.dimensions() != tail + 1))
    refuse_shape(tensor, engine, words);
  if (has_queries && tensor.extent(1) != queries) refuse_shape(tensor, engine, words);
  const int64_t row = tensor.elements_from(has_queries ? 2 : 1);
  const int64_t query_stride = has_queries ? tensor.stride(1, row) : row;
  return {tensor.extent(0), tensor.stride(0, query_stride * queries), query_stride};
}

void expect_innermost_packed(const Tensor& tensor) {
  const int last = tensor.dimensions() - 1;
  if (tensor.stride(last, 1) != 1)
    refuse(tensor.describe(), " with a stride of ", tensor.stride(last, 1),
           " between elements; the last dimension must be contiguous");
}

void expect_some_stride(const Tensor& tensor, const steady_strides& strides) {
  if (strides.batch == 0 && strides.query == 0 && strides.head == 0)
    refuse(tensor.describe(),
           " with strides of 0 throughout; the library takes these for "
           "contiguous, so at least one dimension must be there in memory");
}

int64_t slots_stride_of(const Tensor& slots, const Engine& engine, int32_t width) {
  const Rows rows = rows_of(slots, engine, 1, std::to_string(width));
  const int queries = engine.shape().queries;
  const int64_t stride = queries > 1 ? rows.query_stride : rows.batch_stride;
  if (rows.batch > 1 && rows.batch_stride != queries * stride)
    refuse(slots.describe(), " with ", rows.batch_stride, " elements from request to request and ",
           rows.query_stride, " from query to query; all rows must lie at one stride");
  if (rows.batch * queries > 1 && stride < width)
    refuse(slots.describe(), " with ", stride, " elements from row to row; ", width,
           " or more are needed");
  return std::max<int64_t>(stride, width);
}

std::string page_words(const steady_pool_shape& shape) {
  return std::string(shape.format == STEADY_CACHE_FP8 ? "1-byte elements"
                                                      : "bfloat16, uint16 or 1-byte elements") +
         ", [pages, bytes or more dimensions of one page]";
}

}  // namespace

Step::Step(EngineRef engine, int batch, nb::handle window_lengths, nb::handle compressed, bool keep)
    : engine_(std::move(engine)) {
  step_.struct_size = sizeof step_;
  step_.batch = batch;
  step_.window = lengths(Tensor("window_lengths", window_lengths, Access::kRead, keep));
  if (compressed.is_none()) return;
  const int kinds = engine_->shape().kinds;
  const nb::object entries = nb::steal(PySequence_Tuple(compressed.ptr()));
  if (!entries.is_valid()) throw nb::python_error();
  if (static_cast<int>(nb::len(entries)) > kinds)
    refuse("compressed_lengths has ", nb::len(entries), " entries; this engine has ", kinds,
           kinds == 1 ? " kind" : " kinds");
  int kind = 0;
  for (nb::handle entry : entries)
    step_.compressed[kind++] = lengths(Tensor("compressed_lengths", entry, Access::kRead, keep));
}

steady_lengths Step::lengths(Tensor tensor) {
  if (!tensor) return {};
  const int queries = engine_->shape().queries;
  tensor.expect_device(engine_->cuda_device());
  tensor.expect_type({kInt32}, "int32");
  const bool per_query = tensor.dimensions() == 2;
  if ((tensor.dimensions() != 1 && !per_query) || (per_query && tensor.extent(1) != queries) ||
      tensor.extent(0) < step_.batch || !tensor.is_packed_from(0))
    refuse(tensor.describe(), "; it must be contiguous, [", step_.batch, " or more], or [",
           step_.batch, " or more, ", queries, "] with a length a query");
  const steady_lengths described = {tensor.data<const int32_t>(), per_query};
  tensors_[tensor_count_++] = std::move(tensor);
  return described;
}

LayerTensors::LayerTensors(nb::handle q_object, nb::handle out_object, nb::handle lse_object,
                           nb::handle sink_object, nb::handle window_pages_object,
                           nb::handle window_slots_object, nb::handle compressed_pages_object,
                           nb::handle compressed_slots_object, bool keep)
    : q("q", q_object, Access::kRead, keep),
      out("out", out_object, Access::kWrite, keep),
      lse("lse", lse_object, Access::kWrite, keep),
      sink("sink", sink_object, Access::kRead, keep),
      window_pages("window pages", window_pages_object, Access::kRead, keep),
      window_slots("window slots", window_slots_object, Access::kRead, keep),
      compressed_pages("compressed pages", compressed_pages_object, Access::kRead, keep),
      compressed_slots("compressed slots", compressed_slots_object, Access::kRead, keep) {}

int batch_of(const Tensor& q) {
  const int64_t batch = q.extent(0);
  if (batch > STEADY_MAX_BATCH)
    refuse(q.describe(), "; a step has at most ", static_cast<int>(STEADY_MAX_BATCH), " requests");
  return static_cast<int>(batch);
}

Layer::Layer(EngineRef engine, int kind, LayerTensors tensors, LseForm lse_form)
    : engine_(std::move(engine)), tensors_(std::move(tensors)) {
  const steady_shape& shape = engine_->shape();
  layer_.struct_size = sizeof layer_;
  layer_.kind = kind;
  if (kind < 0 || kind >= shape.kinds)
    refuse("kind is ", kind, "; this engine has kinds 0 to ", shape.kinds - 1);

  const auto& [q, out, lse, sink, window_pages, window_slots, compressed_pages, compressed_slots] =
      tensors_;
  const auto expect_vectors = [&](const char* name, const Tensor& tensor) {
    if (!tensor) refuse(name, " is None; it must be a bfloat16 tensor");
    tensor.expect_device(engine_->cuda_device());
    tensor.expect_type({kBf16, kBits16}, "bfloat16, or uint16 with the bits of bfloat16");
  };
  expect_vectors("q", q);
  layer_.q = q.data<const uint16_t>();
  layer_.q_strides = vectors(q, true);

  expect_vectors("out", out);
  layer_.out = out.data<uint16_t>();
  layer_.out_strides = vectors(out, true);

  if (lse) {
    lse.expect_device(engine_->cuda_device());
    lse.expect_type({kFloat32}, "float32");
    layer_.lse = lse.data<float>();
    layer_.lse_strides =
        lse_form.heads_first && q.dimensions() == 4 ? heads_first(lse) : vectors(lse, false);
    layer_.empty_lse_is_positive = lse_form.empty_is_positive;
  }
  if (sink) {
    sink.expect_device(engine_->cuda_device());
    sink.expect_type({kFloat32}, "float32");
    if (sink.dimensions() != 1 || sink.extent(0) != shape.heads || !sink.is_packed_from(0))
      refuse(sink.describe(), "; it must be contiguous, [", shape.heads, "]");
    layer_.sink = sink.data<const float>();
  }
  layer_.window = pool("window pages", "window slots", window_pages, window_slots, shape.window);
  layer_.compressed = pool("compressed pages", "compressed slots", compressed_pages,
                           compressed_slots, shape.compressed[kind]);
}

void Layer::has_room_for(int64_t batch) {
  batch_ = static_cast<int>(std::min<int64_t>(batch_, batch));
}

/// Of [batch, queries, heads], each with a vector of 512 if `of_head_dim`.
steady_strides Layer::vectors(const Tensor& tensor, bool of_head_dim) {
  const int heads = engine_->shape().heads;
  const std::string words = std::to_string(heads) + (of_head_dim ? ", 512" : "");
  const Rows rows = rows_of(tensor, *engine_, of_head_dim ? 2 : 1, words);
  const int head = tensor.dimensions() - (of_head_dim ? 2 : 1);
  if (tensor.extent(head) != heads || (of_head_dim && tensor.extent(head + 1) != STEADY_HEAD_DIM))
    refuse_shape(tensor, *engine_, words);
  if (of_head_dim) expect_innermost_packed(tensor);
  has_room_for(rows.batch);
  const int64_t vector = of_head_dim ? STEADY_HEAD_DIM : 1;
  const steady_strides strides = {rows.batch_stride, rows.query_stride,
                                  tensor.stride(head, vector)};
  expect_some_stride(tensor, strides);
  return strides;
}

steady_strides Layer::heads_first(const Tensor& lse) {
  const int64_t heads = engine_->shape().heads, queries = engine_->shape().queries;
  if (lse.dimensions() != 3 || lse.extent(1) != heads || lse.extent(2) != queries)
    refuse(lse.describe(), "; it must be [batch, ", heads, ", ", queries, "]");
  has_room_for(lse.extent(0));
  const steady_strides strides = {lse.stride(0, heads * queries), lse.stride(2, heads),
                                  lse.stride(1, 1)};
  expect_some_stride(lse, strides);
  return strides;
}

steady_pool Layer::pool(const char* pages_name, const char* slots_name, const Tensor& pages,
                        const Tensor& slots, const steady_pool_shape& shape) {
  if (shape.max_tokens == 0) {
    if (pages || slots) refuse(pages_name, " are given, but this engine has no such pool");
    return {};
  }
  if (!pages || !slots)
    refuse(pages ? slots_name : pages_name, " are None, but this engine has such a pool");
  pages.expect_device(engine_->cuda_device());
  slots.expect_device(engine_->cuda_device());

  const int64_t page_bytes = steady_page_bytes(shape.format, shape.page_tokens);
  const bool bf16 = shape.format == STEADY_CACHE_BF16;
  const int bits = pages.element_bits();
  if (bits != 8 && !(bf16 && (pages.is_of(kBf16) || pages.is_of(kBits16))))
    refuse(pages.describe(), "; they must be ", page_words(shape));
  if (pages.dimensions() < 2 || !pages.is_packed_from(1) ||
      (pages.dimensions() > 2 && pages.extent(1) != shape.page_tokens) ||
      pages.elements_from(1) * bits / 8 < page_bytes)
    refuse(pages.describe(), "; a page of ", shape.page_tokens, " tokens must be contiguous, ",
           page_bytes, " bytes or more: [pages, bytes], or [pages, ", shape.page_tokens, ", …]");
  const int64_t inner = pages.elements_from(1);

  slots.expect_type({kInt32}, "int32");
  if (slots.dimensions() < 1 || slots.extent(slots.dimensions() - 1) != shape.max_tokens)
    refuse_shape(slots, *engine_, std::to_string(shape.max_tokens));
  expect_innermost_packed(slots);
  const int64_t stride = slots_stride_of(slots, *engine_, shape.max_tokens);
  has_room_for(slots.extent(0));
  return {pages.data<const void>(), pages.stride(0, inner) * bits / 8, pages.extent(0),
          slots.data<const int32_t>(), stride};
}

}  // namespace steady::python
