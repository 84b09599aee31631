// SPDX-License-Identifier: Apache-2.0
// A recorded call in device memory in, the library's structs and calls for it out.
#include "cli/layered_step.hpp"

#include <algorithm>

namespace steady::cli {
namespace {

constexpr size_t kAlignment = 256, kGuardBytes = 256;

/// Where the next buffer may begin, leaving a guard behind one that ends at `end`.
size_t after_guard(size_t end) {
  return (end + kGuardBytes + kAlignment - 1) / kAlignment * kAlignment;
}

template <class T>
void upload(const Engine& engine, const DeviceArray<T>& to, const std::vector<T>& from,
            steady_stream stream) {
  engine.upload(to.data(), from.data(), from.size() * sizeof(T), stream);
}

}  // namespace

AnswerBlock::AnswerBlock(const Engine& engine, const support::RecordedCall& call, int layers,
                         uint8_t pattern)
    : engine_(engine),
      out_bytes_(call.q.size() * sizeof(uint16_t)),
      lse_offset_(after_guard(out_bytes_)),
      lse_bytes_(call.lse_exact.size() * sizeof(float)),
      layer_bytes_(after_guard(lse_offset_ + lse_bytes_)),
      pattern_(pattern),
      memory_(engine, layers * layer_bytes_),
      host_(layers * layer_bytes_) {}

void AnswerBlock::prefill(steady_stream stream) {
  std::fill(host_.begin(), host_.end(), pattern_);
  upload(engine_, memory_, host_, stream);
}

void AnswerBlock::download(steady_stream stream) {
  engine_.download(host_.data(), memory_.data(), host_.size(), stream);
}

std::span<const uint16_t> AnswerBlock::out(int layer) const {
  return {reinterpret_cast<const uint16_t*>(host(layer)), out_bytes_ / sizeof(uint16_t)};
}

std::span<const float> AnswerBlock::lse(int layer) const {
  return {reinterpret_cast<const float*>(host(layer) + lse_offset_), lse_bytes_ / sizeof(float)};
}

bool AnswerBlock::guards_intact(int layer) const {
  const uint8_t* begin = host(layer);
  const auto untouched = [this](uint8_t byte) { return byte == pattern_; };
  return std::all_of(begin + out_bytes_, begin + lse_offset_, untouched) &&
         std::all_of(begin + lse_offset_ + lse_bytes_, begin + layer_bytes_, untouched);
}

LayeredStep::Scope::Scope(const Engine& engine, const support::RecordedScope& scope,
                          steady_stream stream)
    : recorded(scope),
      pages(engine, scope.pages.size()),
      slots(engine, scope.slots.size()),
      lengths(engine, scope.lengths.size()) {
  upload(engine, pages, scope.pages, stream);
}

steady_pool LayeredStep::Scope::pool() const {
  return {pages.data(), recorded.page_stride_bytes, recorded.page_count, slots.data(), 0};
}

LayeredStep::LayeredStep(const Engine& engine, const support::RecordedCall& call, int layers,
                         steady_stream stream)
    : engine_(engine),
      call_(call),
      layers_(layers),
      window_(engine, call.window, stream),
      queries_(engine, layers * call.q.size()) {
  if (call.compressed) compressed_.emplace(engine, *call.compressed, stream);
  if (!call.sinks.empty()) {
    sinks_.emplace(engine, call.sinks.size());
    upload(engine, *sinks_, call.sinks, stream);
  }
}

void LayeredStep::load(const StepInputs& inputs, steady_stream stream) const {
  const auto load_scope = [&](const Scope& scope, const ScopeInputs& from) {
    upload(engine_, scope.slots, from.slots, stream);
    upload(engine_, scope.lengths, from.lengths, stream);
  };
  load_scope(window_, inputs.scopes[0]);
  if (compressed_) load_scope(*compressed_, inputs.scopes[1]);
  upload(engine_, queries_, inputs.q, stream);
}

steady_step LayeredStep::step() const {
  auto step = make<steady_step>();
  step.batch = call_.batch();
  step.window.values = window_.lengths.data();
  if (compressed_) step.compressed[0].values = compressed_->lengths.data();
  return step;
}

steady_layer LayeredStep::layer(int layer, const AnswerBlock& answers) const {
  auto described = make<steady_layer>();
  described.q = queries_.data() + layer * call_.q.size();
  described.out = answers.device_out(layer);
  described.lse = answers.device_lse(layer);
  described.sink = sinks_ ? sinks_->data() : nullptr;
  described.window = window_.pool();
  if (compressed_) described.compressed = compressed_->pool();
  return described;
}

void LayeredStep::run(const Engine& engine, steady_workspace workspace, const AnswerBlock& answers,
                      steady_stream stream) const {
  const steady_step planned = step();
  engine.plan(workspace, planned, stream);
  for (int i = 0; i < layers_; ++i) engine.decode(workspace, planned, layer(i, answers), stream);
}

std::vector<const void*> LayeredStep::addresses(steady_workspace workspace,
                                                const AnswerBlock& answers) const {
  const steady_step planned = step();
  std::vector<const void*> all = {workspace.data, planned.window.values,
                                  planned.compressed[0].values};
  for (int i = 0; i < layers_; ++i) {
    const steady_layer decoded = layer(i, answers);
    all.insert(all.end(),
               {decoded.q, decoded.out, decoded.lse, decoded.sink, decoded.window.pages,
                decoded.window.slots, decoded.compressed.pages, decoded.compressed.slots});
  }
  return all;
}

}  // namespace steady::cli
