// SPDX-License-Identifier: Apache-2.0
// The engine of both CPU paths: a step's plan and layers in, answers out, at once or from a graph.
#pragma once

#include "core/backend.hpp"
#include "cpu/kernels.hpp"
#include "cpu/memory.hpp"
#include "cpu/threads.hpp"

namespace steady::cpu {

class CpuEngine final : public Engine {
 public:
  static Status create(const Shape&, const Options&, const Kernels&, std::unique_ptr<Engine>* out);

  size_t workspace_bytes() const override { return memory_.bytes(); }
  Status plan(void* workspace, const Step&, steady_stream) const override;
  Status decode(void* workspace, const Step&, const Layer&, steady_stream) const override;
  Status read_report(void* workspace, steady_stream, steady_report* out) const override;

  Status capture_begin(steady_stream) const override;
  Status capture_end(steady_stream, std::unique_ptr<Graph>* out) const override;

  Status stream_create(steady_stream* out) const override;
  void stream_destroy(steady_stream) const override;
  Status stream_wait(steady_stream) const override;

  Status device_alloc(size_t bytes, void** out) const override;
  void device_free(void*) const override;
  Status upload(void* device, const void* host, size_t bytes, steady_stream) const override;
  Status download(void* host, const void* device, size_t bytes, steady_stream) const override;

  /// Whether the stream is this engine's or NULL.
  Status check_stream(steady_stream) const;

  /// What plan and decode do when they are not being recorded.
  void run_plan(void* workspace, const Step&) const;
  Status run_decode(void* workspace, const Layer&) const;

 private:
  CpuEngine(const Shape&, const Options&, const Kernels&);
  void attend_part(void* workspace, const PlanTables&, const Layer&, int part) const;
  void merge_row(void* workspace, const RowPlan&, const Layer&, int row, int head) const;
  Status copy(void* to, const void* from, size_t bytes, steady_stream) const;

  const Shape shape_;
  const Options options_;
  const Kernels& kernels_;
  const PlanLimits limits_;
  const MemoryMap memory_;
  const uint64_t seal_;  ///< marks this engine's plans
  mutable ThreadPool threads_;
};

}  // namespace steady::cpu
