// SPDX-License-Identifier: Apache-2.0
// The CUDA engine: a step's plan and layers in, launches on the caller's stream out.
#include "cuda/engine.hpp"

#include <algorithm>
#include <atomic>

#include "core/faults.hpp"
#include "cuda/check.hpp"
#include "cuda/device_guard.hpp"
#include "cuda/error.hpp"
#include "cuda/machine.hpp"
#include "cuda/merge.hpp"
#include "cuda/plan.hpp"

namespace steady::cuda {
namespace {

cudaStream_t native(steady_stream stream) { return static_cast<cudaStream_t>(stream); }

/// The rows that V4 mostly has, 128 + 1024 tokens and shorter, are one unit: no partial, no merge.
constexpr int kUnitTokens = 1152;
/// But where heads are columns in pairs, which join units at little cost, those of more tokens than
/// this are two, so that few rows find more parts.
constexpr int kColumnsWholeTokens = 640;

uint64_t unique_seal() {
  static std::atomic<uint64_t> engines{0};
  return 0x4355444100000000u + engines.fetch_add(1);
}

}  // namespace

Cut cut_for(const Shape& shape, int multiprocessors, bool hopper) {
  constexpr int kMaxUnits = 128, kGroupHeads = 64;
  // A workspace stays below 35 MB on a card of 132, whatever the batch: partials get what the plans
  // leave.
  constexpr size_t kWorkspaceBytes = 34'900'000;
  const int groups = (shape.heads + kGroupHeads - 1) / kGroupHeads;
  const int parts = std::max(1, multiprocessors / groups);
  Cut cut = {{parts, 0, kUnitTokens, kMaxUnits}, {}};
  if (hopper && shape.heads <= sm90::kPairColumns) cut.limits.whole_tokens = kColumnsWholeTokens;
  const int units = cut_row(shape.longest_row(), cut.limits).count;
  if (units == 1) {
    cut.limits.max_units = 1;
    return cut;
  }
  const size_t other_bytes = MemoryMap(shape, cut.limits, cut.room).bytes();
  const size_t partial_bytes = shape.heads * (kHeadDim * sizeof(float) + sizeof(SoftmaxState));
  const size_t left_bytes = kWorkspaceBytes - std::min(kWorkspaceBytes, other_bytes);
  const auto partials = static_cast<int>(left_bytes / partial_bytes);
  const int most_split = std::min(parts, shape.max_rows()) * units;
  int own = parts;  // partials whose room parts need for themselves
  if (hopper) {
    const int rows =
        (shape.heads + groups - 1) / groups <= kGroupHeads / 2 ? kGroupHeads / 2 : kGroupHeads;
    const size_t floats = size_t{1} * shape.heads * kHeadDim;
    cut.room.kept = size_t{1} * std::max(multiprocessors, parts * groups) * rows * kHeadDim;
    own = static_cast<int>((cut.room.kept + floats - 1) / floats);
    cut.limits.all_slots = std::min(partials, most_split);
  }
  cut.limits.slots = std::clamp(partials - own, 0, most_split);
  cut.room.partials = std::max(cut.limits.all_slots, own + cut.limits.slots);
  return cut;
}

PlanLimits limits_for(const Shape& shape, int kind, const PlanLimits& of_engine,
                      const sm90::Spread& spread, int rows) {
  PlanLimits limits = of_engine;
  if (spread.cluster == 0) return limits;
  limits.parts = spread.parts;
  // With more rows than parts a merge of all would cost more than the balance that it brings.
  if (spread.cluster == 1 || rows > limits.parts) limits.all_slots = 0;
  // Long rows may differ so much that splitting them pays whatever their number.
  if (shape.longest_row(kind) > kUnitTokens) return limits;
  // A merge takes as long as some tiles: others are split if that leaves the part that has most a
  // quarter less to do.
  const auto each = [&](int works) { return (works + limits.parts - 1) / limits.parts; };
  const int units = cut_row(shape.longest_row(kind), limits).count;
  if (4 * each(rows * units) > 3 * each(rows) * units) limits.slots = limits.all_slots = 0;
  return limits;
}

Status CudaEngine::create(const Shape& shape, const Options& options,
                          std::unique_ptr<Engine>* out) {
  int count = 0;
  STEADY_RETURN_IF_ERROR(status_of(cudaGetDeviceCount(&count), "counting the devices"));
  if (options.device >= count) {
    return invalid("device is ", options.device, "; this machine has CUDA devices 0 to ",
                   count - 1);
  }
  DeviceGuard guard(options.device);
  STEADY_RETURN_IF_ERROR(status_of(guard.error(), "choosing the device"));
  cudaDeviceProp card = {};
  STEADY_RETURN_IF_ERROR(
      status_of(cudaGetDeviceProperties(&card, options.device), "asking for the card"));
  if (!is_new_enough(card)) {
    return {STEADY_UNSUPPORTED, join("device ", options.device, " is ", describe(card),
                                     "; Steady needs sm_80 or later")};
  }
  const AttendChoice choice =
      choose_attend(shape, 1, card.multiProcessorCount, card.sharedMemPerBlockOptin);
  if (choice.heads == 0) {
    return {STEADY_UNSUPPORTED,
            join("device ", options.device, " (", describe(card), ") has ",
                 card.sharedMemPerBlockOptin, " bytes of shared memory a block, too few")};
  }
  sm90::Room room = {};
  cudaError_t loaded = cudaSuccess;
#if STEADY_WITH_SM90
  if (has_hopper_kernels(card)) loaded = sm90::prepare_attend(&room);
#endif
  // A share of a card may have no room for a cluster.
  if (loaded == cudaSuccess && room.pairs == 0)
    loaded = prepare_attend(card.sharedMemPerBlockOptin);
  STEADY_RETURN_IF_ERROR(status_of_loading(loaded, options.device, card));
  out->reset(new CudaEngine(
      shape, options,
      {options.device, card.multiProcessorCount, card.sharedMemPerBlockOptin, room}));
  return {};
}

CudaEngine::CudaEngine(const Shape& shape, const Options& options, const Card& card)
    : shape_(shape),
      options_(options),
      card_(card),
      cut_(cut_for(shape, card.multiprocessors, card.room.pairs > 0)),
      memory_(shape, cut_.limits, cut_.room),
      seal_(unique_seal()) {}

Status CudaEngine::plan(void* workspace, const Step& step, steady_stream stream) const {
  const DeviceGuard guard(card_.device);
  STEADY_RETURN_IF_ERROR(status_of(guard.error(), "choosing the device"));
  const int rows = step.batch * shape_.queries;
  const sm90::Spread spread = spread_of(rows);
  PlanCall call = {shape_, step, {}, seal_, {}};
  for (int kind = 0; kind < shape_.kinds; ++kind) {
    call.limits[kind] = limits_for(shape_, kind, cut_.limits, spread, rows);
    call.tables[kind] = memory_.tables(workspace, kind, options_.checked);
  }
  if (options_.checked) {
    STEADY_RETURN_IF_ERROR(
        status_of(cudaMemsetAsync(call.tables[0].faults, 0, sizeof(SharedFaultLog), native(stream)),
                  "clearing the report"));
  }
  return status_of(launch_plan(call, native(stream)), "launch of plan");
}

Status CudaEngine::decode(void* workspace, const Step& step, const Layer& layer,
                          steady_stream stream) const {
  const DeviceGuard guard(card_.device);
  STEADY_RETURN_IF_ERROR(status_of(guard.error(), "choosing the device"));
  const int rows = step.batch * shape_.queries;
  const sm90::Spread spread = spread_of(rows);
  const LayerCall call = {shape_.heads,
                          Divisor(shape_.queries),
                          shape_.softmax_scale,
                          seal_,
                          limits_for(shape_, layer.kind, cut_.limits, spread, rows),
                          layer,
                          memory_.tables(workspace, layer.kind, options_.checked)};
  if (options_.checked)
    STEADY_RETURN_IF_ERROR(status_of(launch_check(call, rows, native(stream)), "launch of check"));
  STEADY_RETURN_IF_ERROR(status_of(attend(call, rows, spread, native(stream)), "launch of attend"));
  // Without slots no row is split.
  if (std::max(call.limits.slots, call.limits.all_slots) == 0 && !options_.checked) return {};
#if STEADY_WITH_SM90
  if (spread.cluster > 0)
    return status_of(sm90::launch_merge(call, native(stream)), "launch of merge");
#endif
  return status_of(launch_merge(call, native(stream)), "launch of merge");
}

sm90::Spread CudaEngine::spread_of([[maybe_unused]] int rows) const {
#if STEADY_WITH_SM90
  if (card_.room.pairs > 0) return sm90::choose_spread(shape_, cut_.limits, rows, card_.room);
#endif
  return {};
}

cudaError_t CudaEngine::attend(const LayerCall& call, int rows,
                               [[maybe_unused]] const sm90::Spread& spread,
                               cudaStream_t stream) const {
#if STEADY_WITH_SM90
  if (spread.cluster > 0) return sm90::launch_attend(call, spread, stream);
#endif
  return launch_attend(call, choose_attend(shape_, rows, card_.multiprocessors, card_.shared_bytes),
                       stream);
}

Status CudaEngine::read_report(void* workspace, steady_stream stream, steady_report* out) const {
  const DeviceGuard guard(card_.device);
  STEADY_RETURN_IF_ERROR(status_of(guard.error(), "choosing the device"));
  const Tables tables = memory_.tables(workspace, 0, true);
  PlanHeader header = {};
  SharedFaultLog log = {};
  STEADY_RETURN_IF_ERROR(download(&header, tables.plan.header, sizeof header, stream));
  STEADY_RETURN_IF_ERROR(download(&log, tables.faults, sizeof log, stream));
  STEADY_RETURN_IF_ERROR(stream_wait(stream));
  if (header.seal != seal_) {
    return {STEADY_NOT_PLANNED, "the workspace holds no plan of this engine to report on"};
  }
  write_report({log.negative_length.seen, log.long_length.seen, log.stray_slot.seen}, out);
  return {};
}

Status CudaEngine::stream_create(steady_stream* out) const {
  const DeviceGuard guard(card_.device);
  STEADY_RETURN_IF_ERROR(status_of(guard.error(), "choosing the device"));
  cudaStream_t stream = nullptr;
  STEADY_RETURN_IF_ERROR(
      status_of(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream"));
  *out = stream;
  return {};
}

void CudaEngine::stream_destroy(steady_stream stream) const {
  const DeviceGuard guard(card_.device);
  cudaStreamDestroy(native(stream));
}

Status CudaEngine::stream_wait(steady_stream stream) const {
  const DeviceGuard guard(card_.device);
  STEADY_RETURN_IF_ERROR(status_of(guard.error(), "choosing the device"));
  bool active = false;
  STEADY_RETURN_IF_ERROR(capturing(native(stream), &active));
  if (active) return {};  // nothing runs that could be waited for
  return status_of(cudaStreamSynchronize(native(stream)), "waiting for the stream");
}

Status CudaEngine::device_alloc(size_t bytes, void** out) const {
  const DeviceGuard guard(card_.device);
  STEADY_RETURN_IF_ERROR(status_of(guard.error(), "choosing the device"));
  return status_of(cudaMalloc(out, std::max<size_t>(bytes, 1)), "allocation of device memory");
}

void CudaEngine::device_free(void* memory) const {
  const DeviceGuard guard(card_.device);
  cudaFree(memory);
}

Status CudaEngine::copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                        steady_stream stream) const {
  const DeviceGuard guard(card_.device);
  STEADY_RETURN_IF_ERROR(status_of(guard.error(), "choosing the device"));
  bool active = false;
  STEADY_RETURN_IF_ERROR(capturing(native(stream), &active));
  if (active) {
    return {STEADY_UNSUPPORTED, "a copy cannot be captured; capture plan and decode"};
  }
  return status_of(cudaMemcpyAsync(to, from, bytes, kind, native(stream)), "copy");
}

Status CudaEngine::upload(void* device, const void* host, size_t bytes,
                          steady_stream stream) const {
  return copy(device, host, bytes, cudaMemcpyHostToDevice, stream);
}

Status CudaEngine::download(void* host, const void* device, size_t bytes,
                            steady_stream stream) const {
  return copy(host, device, bytes, cudaMemcpyDeviceToHost, stream);
}

}  // namespace steady::cuda
