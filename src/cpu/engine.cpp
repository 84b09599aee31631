// SPDX-License-Identifier: Apache-2.0
// The CPU engine's set-up, its memory, streams and report.
#include "cpu/engine.hpp"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <limits>
#include <new>

#include "core/faults.hpp"
#include "cpu/graph.hpp"

namespace steady::cpu {
namespace {

int thread_count(const Options& options) {
  return options.threads > 0 ? options.threads : usable_cores();
}

/// More parts than threads even out what the plan's estimate of cost gets wrong. Units are long,
/// because on a CPU each costs a merge and buys parallelism that other rows usually give anyway.
/// The shortest row that is divided and the longest division follow from the constants, never from
/// the number of threads.
PlanLimits limits_for(int threads) {
  constexpr int kUnitTokens = 512, kMaxUnits = 32;
  const int parts = threads == 1 ? 1 : 2 * threads;
  return {parts, threads == 1 ? 0 : std::max(2 * parts, kMaxUnits), kUnitTokens, kMaxUnits};
}

uint64_t unique_seal() {
  static std::atomic<uint64_t> engines{0};
  return 0x5354454144590000u + (engines.fetch_add(1) << 20);
}

}  // namespace

Status CpuEngine::create(const Shape& shape, const Options& options, const Kernels& kernels,
                         std::unique_ptr<Engine>* out) {
  if (options.device != 0) {
    return invalid("device is ", options.device, "; a CPU backend has device 0");
  }
  if (const int threads = thread_count(options); !can_have_threads(threads)) {
    return {STEADY_UNSUPPORTED, join("the system does not allow ", threads,
                                     " threads; ask for fewer in steady_options.threads")};
  }
  out->reset(new CpuEngine(shape, options, kernels));
  return {};
}

CpuEngine::CpuEngine(const Shape& shape, const Options& options, const Kernels& kernels)
    : shape_(shape),
      options_(options),
      kernels_(kernels),
      limits_(limits_for(thread_count(options))),
      memory_(shape, limits_, kernels.scratch_bytes(shape)),
      seal_(unique_seal()),
      threads_(thread_count(options)) {}

Status CpuEngine::read_report(void* workspace, steady_stream stream, steady_report* out) const {
  STEADY_RETURN_IF_ERROR(check_stream(stream));
  if (memory_.plan(workspace, 0).header->seal != seal_) {
    return {STEADY_NOT_PLANNED, "the workspace holds no plan of this engine to report on"};
  }
  FaultLog all = {};
  const FaultLog* logs = memory_.faults(workspace);
  std::for_each_n(logs, 1 + limits_.parts, [&](const FaultLog& log) { add(log, &all); });
  write_report(all, out);
  return {};
}

Status CpuEngine::device_alloc(size_t bytes, void** out) const {
  // The aligned operator new rounds sizes near the end of the range up to nothing.
  constexpr size_t kLargest = std::numeric_limits<std::ptrdiff_t>::max();
  if (bytes <= kLargest)
    *out = ::operator new(std::max<size_t>(bytes, 1), std::align_val_t(kWorkspaceAlignment),
                          std::nothrow);
  if (*out == nullptr) return {STEADY_OUT_OF_MEMORY, join("no memory for ", bytes, " bytes")};
  return {};
}

void CpuEngine::device_free(void* memory) const {
  ::operator delete(memory, std::align_val_t(kWorkspaceAlignment));
}

Status CpuEngine::copy(void* to, const void* from, size_t bytes, steady_stream stream) const {
  STEADY_RETURN_IF_ERROR(check_stream(stream));
  if (is_capturing(stream)) {
    return {STEADY_UNSUPPORTED,
            "a copy cannot be captured on this backend; capture plan and decode"};
  }
  if (bytes > 0) std::memcpy(to, from, bytes);
  return {};
}

Status CpuEngine::upload(void* device, const void* host, size_t bytes, steady_stream stream) const {
  return copy(device, host, bytes, stream);
}

Status CpuEngine::download(void* host, const void* device, size_t bytes,
                           steady_stream stream) const {
  return copy(host, device, bytes, stream);
}

}  // namespace steady::cpu
