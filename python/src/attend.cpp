// SPDX-License-Identifier: Apache-2.0
// Tensors of one layer in, an engine and scratch for this call found, plan and decode made.
#include "attend.hpp"

#include <nanobind/stl/shared_ptr.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "calls.hpp"
#include "exchange.hpp"
#include "fail.hpp"

namespace nb = nanobind;

namespace steady::python {
namespace {

constexpr size_t kAlignment = 256;  // of a workspace, in bytes

/// Scratch that no other call sees, so that no plan in it can be stale, from the allocator of q's
/// library, which knows about streams and captures. It goes back at the end of the call, and then
/// to later work of the same stream only.
class Scratch {
 public:
  Scratch(nb::handle q, nb::dlpack::device device, const Engine& engine,
          const nb::callable& allocate) {
    const size_t bytes = steady_workspace_bytes(engine.get());
    if (take_from_table(exchange_table(Py_TYPE(q.ptr())), device, bytes)) return;
    // Asked in Python, a library without memory raises its own error.
    asked_ = allocate(bytes, q.attr("device"));
    workspace_ = workspace_in(Tensor("workspace", asked_, Access::kWrite, false), engine);
  }
  ~Scratch() {
    if (managed_ != nullptr && managed_->deleter != nullptr) managed_->deleter(managed_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  steady_workspace workspace() const { return workspace_; }

 private:
  bool take_from_table(const ExchangeTable* table, nb::dlpack::device device, size_t bytes) {
    if (table == nullptr || table->allocate == nullptr) return false;
    auto room = static_cast<int64_t>(bytes + kAlignment);  // libraries align less on a CPU
    nb::dlpack::dltensor like = {};
    like.device = device;
    like.ndim = 1;
    like.dtype = nb::dtype<uint8_t>();
    like.shape = &room;
    const auto no_words = [](void*, const char*, const char*) {};
    if (table->allocate(&like, &managed_, nullptr, no_words) != 0) return false;
    const nb::dlpack::dltensor& given = managed_->tensor;
    const uintptr_t begin = reinterpret_cast<uintptr_t>(given.data) + given.byte_offset;
    const uintptr_t aligned = (begin + kAlignment - 1) / kAlignment * kAlignment;
    workspace_ = {reinterpret_cast<void*>(aligned), bytes};
    return true;
  }

  ManagedTensor* managed_ = nullptr;
  nb::object asked_;
  steady_workspace workspace_ = {};
};

/// The library takes one stride for all rows. Where they lie at none the tensor becomes one of a
/// copy, which a kernel makes that can be captured as any; what is returned keeps it alive.
nb::object lay_at_one_stride(Tensor& slots, nb::handle object) {
  if (!slots || slots.dimensions() != 3 || slots.extent(0) == 1 || slots.extent(1) == 1 ||
      slots.stride(0, 0) == slots.extent(1) * slots.stride(1, 0))
    return {};
  nb::object copy = object.attr("contiguous")();
  slots = Tensor(slots.name(), copy, Access::kRead, false);
  return copy;
}

EngineKey::Pool pool_of(const Tensor& pages, const Tensor& slots) {
  if (!pages || !slots) return {};
  if (pages.dimensions() < 3) refuse(pages.describe(), "; they must be [pages, page_tokens, …]");
  if (slots.dimensions() < 1) refuse(slots.describe(), "; they must be [batch, queries, width]");
  return {pages.extent(1), slots.extent(slots.dimensions() - 1), pages.element_bits() != 8};
}

EngineKey key_of(const LayerTensors& tensors, double softmax_scale) {
  const Tensor& q = tensors.q;
  if (!q) refuse("q is None; it must be a bfloat16 tensor");
  const int dimensions = q.dimensions();
  if (dimensions != 3 && dimensions != 4)
    refuse(q.describe(), "; it must be [batch, queries, heads, 512] or [batch, heads, 512]");
  return {q.device().device_type,
          q.device().device_id,
          q.extent(dimensions - 2),
          dimensions == 4 ? q.extent(1) : 1,
          softmax_scale,
          pool_of(tensors.window_pages, tensors.window_slots),
          pool_of(tensors.compressed_pages, tensors.compressed_slots)};
}

nb::object shape_of(const EngineKey::Pool& pool) {
  if (pool == EngineKey::Pool{}) return nb::none();
  return nb::make_tuple(pool.page_tokens, pool.max_tokens, pool.bf16 ? "bf16" : "fp8");
}

}  // namespace

std::shared_ptr<Engine> EngineCache::find(const EngineKey& key, nb::handle q) {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const Entry& entry) { return entry.key == key; });
  if (found != entries_.end()) {
    std::rotate(entries_.begin(), found, found + 1);
    return entries_.front().engine;
  }
  auto engine =
      nb::cast<std::shared_ptr<Engine>>(make_(q, key.heads, key.queries, key.softmax_scale,
                                              shape_of(key.window), shape_of(key.compressed)));
  if (engine == nullptr) refuse("no engine was made for ", nb::str(q.type()).c_str());
  entries_.insert(entries_.begin(), {key, engine});
  if (entries_.size() > capacity_) {
    const Entry forgotten = std::move(entries_.back());
    entries_.pop_back();  // before the engine ends, which lets other threads in here
  }
  return engine;
}

void EngineCache::clear() { std::exchange(entries_, {}).clear(); }

void attend_tensors(EngineCache& engines, nb::callable allocate, nb::callable ask_stream,
                    nb::handle q, nb::handle out, nb::handle lse, nb::handle sink,
                    nb::handle window_pages, nb::handle window_slots, nb::handle window_lengths,
                    nb::handle compressed_pages, nb::handle compressed_slots,
                    nb::handle compressed_lengths, double softmax_scale, bool empty_lse_is_positive,
                    bool heads_first_lse) {
  LayerTensors tensors(q, out, lse, sink, window_pages, window_slots, compressed_pages,
                       compressed_slots, false);
  const std::shared_ptr<Engine> engine = engines.find(key_of(tensors, softmax_scale), q);
  const nb::object copies[] = {lay_at_one_stride(tensors.window_slots, window_slots),
                               lay_at_one_stride(tensors.compressed_slots, compressed_slots)};
  const Step step(engine, batch_of(tensors.q), window_lengths, nb::make_tuple(compressed_lengths),
                  false);
  const nb::dlpack::device device = tensors.q.device();
  const Layer layer(engine, 0, std::move(tensors), {empty_lse_is_positive, heads_first_lse});
  expect_room(layer, step.get());
  const steady_stream stream = stream_at(current_stream(q, device, ask_stream), *engine);
  const Scratch scratch(q, device, *engine, allocate);
  check(unlocked([&] {
    const steady_status planned =
        steady_plan(engine->get(), scratch.workspace(), &step.get(), stream);
    if (planned != STEADY_OK) return planned;
    return steady_decode(engine->get(), scratch.workspace(), &step.get(), &layer.get(), stream);
  }));
}

}  // namespace steady::python
