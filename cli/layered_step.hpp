// SPDX-License-Identifier: Apache-2.0
// A recorded call in, a step of many such layers in device memory out, at addresses that never
// change.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cli/step_inputs.hpp"
#include "steady/steady.hpp"

namespace steady::cli {

/// The answers of all layers, with a guard behind each out and each lse. Two blocks with different
/// patterns agree only where something has been written.
class AnswerBlock {
 public:
  AnswerBlock(const Engine& engine, const support::RecordedCall& call, int layers, uint8_t pattern);

  void prefill(steady_stream stream);
  void download(steady_stream stream);

  uint16_t* device_out(int layer) const {
    return reinterpret_cast<uint16_t*>(memory_.data() + layer * layer_bytes_);
  }
  float* device_lse(int layer) const {
    return reinterpret_cast<float*>(memory_.data() + layer * layer_bytes_ + lse_offset_);
  }
  /// As of the last download.
  std::span<const uint16_t> out(int layer) const;
  std::span<const float> lse(int layer) const;
  /// Whether layer `layer` wrote nothing behind its out and its lse.
  bool guards_intact(int layer) const;

 private:
  const uint8_t* host(int layer) const { return host_.data() + layer * layer_bytes_; }

  const Engine& engine_;
  size_t out_bytes_, lse_offset_, lse_bytes_, layer_bytes_;
  uint8_t pattern_;
  DeviceArray<uint8_t> memory_;
  std::vector<uint8_t> host_;
};

/// All layers read the same caches, slots and lengths; each has queries and answers of its own.
class LayeredStep {
 public:
  LayeredStep(const Engine& engine, const support::RecordedCall& call, int layers,
              steady_stream stream);

  /// Writes the inputs of a step over those of the last.
  void load(const StepInputs& inputs, steady_stream stream) const;

  steady_step step() const;
  steady_layer layer(int layer, const AnswerBlock& answers) const;

  /// Plans and decodes all layers.
  void run(const Engine& engine, steady_workspace workspace, const AnswerBlock& answers,
           steady_stream stream) const;
  /// Every address that run() hands to the library.
  std::vector<const void*> addresses(steady_workspace workspace, const AnswerBlock& answers) const;

 private:
  struct Scope {
    Scope(const Engine& engine, const support::RecordedScope& recorded, steady_stream stream);
    steady_pool pool() const;

    const support::RecordedScope& recorded;
    DeviceArray<uint8_t> pages;
    DeviceArray<int32_t> slots, lengths;
  };

  const Engine& engine_;
  const support::RecordedCall& call_;
  int layers_;
  Scope window_;
  std::optional<Scope> compressed_;
  DeviceArray<uint16_t> queries_;
  std::optional<DeviceArray<float>> sinks_;
};

}  // namespace steady::cli
