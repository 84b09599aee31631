// SPDX-License-Identifier: Apache-2.0
// The CUDA engine: a step's plan and layers in, launches on the caller's stream out.
#pragma once

#include <cuda_runtime.h>

#include "core/backend.hpp"
#include "cuda/attend.hpp"
#include "cuda/memory.hpp"
#include "cuda/sm90/attend.hpp"

namespace steady::cuda {

/// What the engine needs to know of its card.
struct Card {
  int device;
  int multiprocessors;
  size_t shared_bytes;  ///< that a block may have
  sm90::Room room;      ///< of a card that runs the kernels of sm90/; else none
};

/// How work is cut on this card and what that needs; a pure function, so that sizes depend on shape
/// and card alone.
struct Cut {
  PlanLimits limits;
  PartialRoom room;
};
Cut cut_for(const Shape&, int multiprocessors, bool hopper);

/// How plan deals the rows of a kind in a step of so many, spread like this, and attend and merge
/// know them. Units are the engine's, and parts are the spread's, whatever the kind.
PlanLimits limits_for(const Shape&, int kind, const PlanLimits& of_engine, const sm90::Spread&,
                      int rows);

class CudaEngine final : public Engine {
 public:
  static Status create(const Shape&, const Options&, std::unique_ptr<Engine>* out);

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

 private:
  /// Of Hopper's kernels; with the others its cluster is 0.
  sm90::Spread spread_of(int rows) const;
  cudaError_t attend(const LayerCall&, int rows, const sm90::Spread&, cudaStream_t) const;
  Status copy(void* to, const void* from, size_t bytes, cudaMemcpyKind, steady_stream) const;
  CudaEngine(const Shape&, const Options&, const Card&);

  const Shape shape_;
  const Options options_;
  const Card card_;
  const Cut cut_;
  const MemoryMap memory_;
  const uint64_t seal_;  ///< marks this engine's plans
};

}  // namespace steady::cuda
