// SPDX-License-Identifier: Apache-2.0
// Callers' structs in, checked ones out, or a sentence that names the field, its value and what is
// allowed.
#include "core/shape.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

namespace steady {
namespace {

/// Strides beyond this have no use, and below it no product of a stride and an index overflows.
constexpr int64_t kMaxStride = int64_t{1} << 44;

/// A field as callers write it: owner, index where there is one, member. Spelled out for a failure
/// only: a call that succeeds allocates nothing, so no text is built ahead.
struct Field {
  const char* owner;
  int index = -1;

  struct Member {
    const Field& field;
    const char* name;
  };
  Member operator/(const char* name) const { return {*this, name}; }
};

std::ostream& operator<<(std::ostream& text, const Field& field) {
  text << field.owner;
  return field.index < 0 ? text : text << '[' << field.index << ']';
}

std::ostream& operator<<(std::ostream& text, const Field::Member& member) {
  return text << member.field << member.name;
}

template <class Name>
Status check_range(const Name& name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return {};
  return invalid(name, " is ", value, "; allowed is ", low, " to ", high);
}

Status check_pool_shape(const Field& name, const steady_pool_shape& pool) {
  STEADY_RETURN_IF_ERROR(check_range(name / ".max_tokens", pool.max_tokens, 0, STEADY_MAX_TOKENS));
  if (pool.max_tokens == 0) return {};
  if (pool.format != STEADY_CACHE_FP8 && pool.format != STEADY_CACHE_BF16) {
    return invalid(name, ".format is ", static_cast<int>(pool.format),
                   "; allowed is STEADY_CACHE_FP8 (0) or STEADY_CACHE_BF16 (1)");
  }
  return check_range(name / ".page_tokens", pool.page_tokens, 1,
                     std::numeric_limits<int32_t>::max());
}

template <class Name>
Status check_aligned(const Name& name, const void* pointer, size_t alignment) {
  if (reinterpret_cast<uintptr_t>(pointer) % alignment == 0) return {};
  return invalid(name, " must be aligned to ", alignment, " bytes");
}

template <class Name>
Status check_pointer(const Name& name, const void* pointer, size_t alignment) {
  if (pointer == nullptr) return invalid(name, " is NULL");
  return check_aligned(name, pointer, alignment);
}

struct Extent {
  int64_t stride, count;
};

/// Fills in contiguous strides; `vector` is the length of the innermost, contiguous vector.
Status resolve_strides(const Field& name, const Shape& shape, int batch, int64_t vector,
                       bool written, steady_strides given, steady_strides* resolved) {
  if (given.batch == 0 && given.query == 0 && given.head == 0) {
    const int64_t query = vector * shape.heads;
    *resolved = {query * shape.queries, query, vector};
    return {};
  }
  STEADY_RETURN_IF_ERROR(check_range(name / ".batch", given.batch, 0, kMaxStride));
  STEADY_RETURN_IF_ERROR(check_range(name / ".query", given.query, 0, kMaxStride));
  STEADY_RETURN_IF_ERROR(check_range(name / ".head", given.head, 0, kMaxStride));
  *resolved = given;
  if (!written) return {};
  // Two rows that share an element would be written by two workers at once.
  std::array<Extent, 3> extents = {
      {{given.batch, batch}, {given.query, shape.queries}, {given.head, shape.heads}}};
  std::sort(extents.begin(), extents.end(),
            [](const Extent& a, const Extent& b) { return a.stride < b.stride; });
  int64_t inner = vector;
  for (const Extent& extent : extents) {
    if (extent.count == 1) continue;
    if (extent.stride < inner) {
      return invalid(name, " {batch ", given.batch, ", query ", given.query, ", head ", given.head,
                     "} make vectors of ", vector, " elements overlap; a stride of at least ",
                     inner, " is needed where ", extent.stride, " stands");
    }
    inner = extent.stride * (extent.count - 1) + inner;
  }
  return {};
}

Status check_pool(const Field& name, const steady_pool_shape& shape, const steady_pool& given,
                  Pool* checked) {
  *checked = {shape, nullptr, 0, 0, nullptr, 0};
  if (shape.max_tokens == 0) return {};
  STEADY_RETURN_IF_ERROR(
      check_range(name / ".page_count", given.page_count, 0, std::numeric_limits<int64_t>::max()));
  const int64_t page_bytes = steady_page_bytes(shape.format, shape.page_tokens);
  STEADY_RETURN_IF_ERROR(
      check_range(name / ".page_stride_bytes", given.page_stride_bytes, page_bytes, kMaxStride));
  if (given.page_count > std::numeric_limits<int64_t>::max() / given.page_stride_bytes) {
    return invalid(name, ".page_count is ", given.page_count, "; with ", given.page_stride_bytes,
                   " bytes a page the pool leaves the 64-bit address range");
  }
  if (given.page_count > 0 && given.pages == nullptr) return invalid(name, ".pages is NULL");
  if (shape.format == STEADY_CACHE_BF16) {
    STEADY_RETURN_IF_ERROR(check_aligned(name / ".pages", given.pages, sizeof(uint16_t)));
    if (given.page_stride_bytes % 2 != 0) {
      return invalid(name, ".page_stride_bytes is ", given.page_stride_bytes,
                     "; pages of STEADY_CACHE_BF16 need an even one");
    }
  }
  STEADY_RETURN_IF_ERROR(check_pointer(name / ".slots", given.slots, alignof(int32_t)));
  const int64_t stride = given.slots_stride == 0 ? shape.max_tokens : given.slots_stride;
  STEADY_RETURN_IF_ERROR(check_range(name / ".slots_stride", stride, shape.max_tokens, kMaxStride));
  *checked = {shape,
              static_cast<const uint8_t*>(given.pages),
              given.page_stride_bytes,
              given.page_count,
              given.slots,
              stride};
  return {};
}

}  // namespace

Status check_shape(const steady_shape* given, Shape* checked) {
  STEADY_RETURN_IF_ERROR(check_struct(given, "steady_shape"));
  STEADY_RETURN_IF_ERROR(check_range("heads", given->heads, 1, STEADY_MAX_HEADS));
  STEADY_RETURN_IF_ERROR(check_range("queries", given->queries, 1, STEADY_MAX_QUERIES));
  STEADY_RETURN_IF_ERROR(check_range("max_batch", given->max_batch, 1, STEADY_MAX_BATCH));
  STEADY_RETURN_IF_ERROR(check_range("kinds", given->kinds, 1, STEADY_MAX_KINDS));
  if (!std::isfinite(given->softmax_scale)) {
    return invalid("softmax_scale is ", given->softmax_scale, "; allowed is any finite number");
  }
  STEADY_RETURN_IF_ERROR(check_pool_shape({"window"}, given->window));
  for (int kind = 0; kind < given->kinds; ++kind) {
    STEADY_RETURN_IF_ERROR(check_pool_shape({"compressed", kind}, given->compressed[kind]));
  }
  *checked = {given->heads,
              given->queries,
              given->max_batch,
              given->kinds,
              given->softmax_scale,
              given->window,
              {}};
  std::copy_n(given->compressed, given->kinds, checked->compressed);
  return {};
}

Status check_options(const steady_options* given, Options* checked) {
  *checked = {};
  if (given == nullptr) return {};
  STEADY_RETURN_IF_ERROR(check_struct(given, "steady_options"));
  STEADY_RETURN_IF_ERROR(check_range("device", given->device, 0, 1024));
  STEADY_RETURN_IF_ERROR(check_range("threads", given->threads, 0, 1024));
  *checked = {given->backend, given->device, given->threads, given->checked != 0};
  return {};
}

Status check_step(const Shape& shape, const steady_step* given, Step* checked) {
  STEADY_RETURN_IF_ERROR(check_struct(given, "steady_step"));
  STEADY_RETURN_IF_ERROR(check_range("steady_step.batch", given->batch, 1, shape.max_batch));
  STEADY_RETURN_IF_ERROR(
      check_aligned("steady_step.window.values", given->window.values, alignof(int32_t)));
  *checked = {given->batch, given->window, {}};
  for (int kind = 0; kind < shape.kinds; ++kind) {
    STEADY_RETURN_IF_ERROR(check_aligned(Field{"steady_step.compressed", kind} / ".values",
                                         given->compressed[kind].values, alignof(int32_t)));
    checked->compressed[kind] = given->compressed[kind];
  }
  return {};
}

Status check_layer(const Shape& shape, const Step& step, const steady_layer* given,
                   Layer* checked) {
  STEADY_RETURN_IF_ERROR(check_struct(given, "steady_layer"));
  STEADY_RETURN_IF_ERROR(check_range("steady_layer.kind", given->kind, 0, shape.kinds - 1));
  STEADY_RETURN_IF_ERROR(check_pointer("steady_layer.q", given->q, alignof(uint16_t)));
  STEADY_RETURN_IF_ERROR(check_pointer("steady_layer.out", given->out, alignof(uint16_t)));
  STEADY_RETURN_IF_ERROR(check_aligned("steady_layer.lse", given->lse, alignof(float)));
  STEADY_RETURN_IF_ERROR(check_aligned("steady_layer.sink", given->sink, alignof(float)));
  *checked = {given->kind, step.batch, given->q, given->out, given->lse, given->sink,
              {},          {},         {},       {},         false};
  STEADY_RETURN_IF_ERROR(resolve_strides({"steady_layer.q_strides"}, shape, step.batch, kHeadDim,
                                         false, given->q_strides, &checked->q_strides));
  STEADY_RETURN_IF_ERROR(resolve_strides({"steady_layer.out_strides"}, shape, step.batch, kHeadDim,
                                         true, given->out_strides, &checked->out_strides));
  STEADY_RETURN_IF_ERROR(resolve_strides({"steady_layer.lse_strides"}, shape, step.batch, 1, true,
                                         given->lse_strides, &checked->lse_strides));
  STEADY_RETURN_IF_ERROR(
      check_pool({"steady_layer.window"}, shape.window, given->window, &checked->scopes[0]));
  checked->empty_lse_is_positive = given->empty_lse_is_positive != 0;
  return check_pool({"steady_layer.compressed"}, shape.compressed[given->kind], given->compressed,
                    &checked->scopes[1]);
}

}  // namespace steady
