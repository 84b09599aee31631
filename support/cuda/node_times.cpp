// SPDX-License-Identifier: Apache-2.0
// Work on CUDA devices in, the activity records that CUPTI makes of its kernels out.
#include "support/node_times.hpp"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <stdexcept>

#if STEADY_WITH_CUPTI
#include <cupti.h>

#include "support/cuda/shared_library.hpp"
#endif

namespace steady::support {

#if STEADY_WITH_CUPTI
namespace {

/// CUPTI has one set of callbacks for the whole process, so what they need is here.
struct Trace {
  decltype(cuptiActivityGetNextRecord)* next_record = nullptr;
  std::mutex mutex;
  std::vector<KernelRun> runs;
} trace;

constexpr size_t kBufferBytes = size_t{4} << 20, kBufferAlignment = 64;

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* bytes, size_t* max_records) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(kBufferAlignment, kBufferBytes));
  *bytes = *buffer == nullptr ? 0 : kBufferBytes;
  *max_records = 0;  // as many as fit
}

void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid_bytes) {
  const std::lock_guard lock(trace.mutex);
  CUpti_Activity* record = nullptr;
  while (trace.next_record(buffer, valid_bytes, &record) == CUPTI_SUCCESS) {
    if (record->kind != CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) continue;
    // The records of all versions begin alike.
    const auto* kernel = reinterpret_cast<const CUpti_ActivityKernel9*>(record);
    trace.runs.push_back({kernel->name, static_cast<double>(kernel->start) / 1e3,
                          static_cast<double>(kernel->end) / 1e3});
  }
  std::free(buffer);
}

void check(CUptiResult result, const char* what) {
  if (result != CUPTI_SUCCESS) {
    throw std::runtime_error(std::string("kernels cannot be traced: ") + what + " failed");
  }
}

}  // namespace

std::vector<KernelRun> trace_kernels(const std::function<void()>& work) {
  static const SharedLibrary library{"libcupti.so.13", "libcupti.so.12", "libcupti.so",
                                     STEADY_CUPTI_PATH};
  if (!library) throw std::runtime_error("kernels cannot be traced: CUPTI was not found");
  const auto register_callbacks =
      library.find<decltype(cuptiActivityRegisterCallbacks)>("cuptiActivityRegisterCallbacks");
  const auto enable = library.find<decltype(cuptiActivityEnable)>("cuptiActivityEnable");
  const auto disable = library.find<decltype(cuptiActivityDisable)>("cuptiActivityDisable");
  const auto flush = library.find<decltype(cuptiActivityFlushAll)>("cuptiActivityFlushAll");
  trace.next_record =
      library.find<decltype(cuptiActivityGetNextRecord)>("cuptiActivityGetNextRecord");
  if (!register_callbacks || !enable || !disable || !flush || !trace.next_record) {
    throw std::runtime_error("kernels cannot be traced: this CUPTI lacks the activity functions");
  }

  check(register_callbacks(give_buffer, take_buffer), "registering with CUPTI");
  check(enable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL), "enabling the records");
  try {
    work();
  } catch (...) {
    disable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
    flush(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
    const std::lock_guard lock(trace.mutex);
    trace.runs.clear();
    throw;
  }
  check(flush(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED), "reading the records");
  check(disable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL), "disabling the records");

  const std::lock_guard lock(trace.mutex);
  std::vector<KernelRun> runs;
  runs.swap(trace.runs);
  std::sort(runs.begin(), runs.end(),
            [](const KernelRun& a, const KernelRun& b) { return a.begin_us < b.begin_us; });
  return runs;
}

#else

std::vector<KernelRun> trace_kernels(const std::function<void()>&) {
  throw std::runtime_error("kernels cannot be traced: CUPTI was not found when this was built");
}

#endif

}  // namespace steady::support
