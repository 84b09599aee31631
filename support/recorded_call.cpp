// SPDX-License-Identifier: Apache-2.0
// Tensors by name in, a checked RecordedCall out.
#include "support/recorded_call.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

namespace steady::support {
namespace {

using Extents = std::vector<int64_t>;

const std::set<std::string> kTensorNames = {
    "q",         "swa_cache",     "swa_indices",  "swa_lengths",  "extra_cache", "extra_indices",
    "attn_sink", "extra_lengths", "out_flashmla", "lse_flashmla", "out_exact",   "lse_exact",
};

/// Looks things up in the file and refuses it where they are not what they must be.
class Reader {
 public:
  explicit Reader(SafetensorsFile& file) : file_(file) {}

  [[noreturn]] void refuse(const std::string& sentence) const {
    throw FileError(file_.path(), sentence);
  }

  bool has(const std::string& name) const { return file_.tensors().count(name) != 0; }

  /// -1 in `extents` stands for any extent from `1` to the limit of its dimension in `limits`.
  const Tensor& tensor(const std::string& name, const std::string& dtype, const Extents& extents,
                       const Extents& limits = {}) const {
    if (!has(name)) refuse("it is no recorded call: tensor " + name + " is missing");
    const Tensor& found = file_.tensors().at(name);
    bool fits = found.dtype == dtype && found.shape.size() == extents.size();
    for (size_t i = 0; fits && i < extents.size(); ++i) {
      fits = extents[i] >= 0 ? found.shape[i] == extents[i]
                             : found.shape[i] >= 1 && found.shape[i] <= limits[i];
    }
    if (!fits)
      refuse("tensor " + name + " is " + describe(found) + ", but must be " +
             expected(dtype, extents, limits));
    return found;
  }

  template <class T>
  std::vector<T> values(const std::string& name, const std::string& dtype,
                        const Extents& extents) const {
    return file_.read<T>(tensor(name, dtype, extents));
  }

  template <class T>
  std::vector<T> read(const Tensor& tensor) const {
    return file_.read<T>(tensor);
  }

  template <class T>
  T number(const std::string& name) const {
    const auto found = file_.metadata().find(name);
    if (found == file_.metadata().end())
      refuse("it is no recorded call: its metadata lacks " + name);
    const std::string& text = found->second;
    T value = {};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size())
      refuse("its metadata gives " + name + " as " + escaped(text) +
             ", which is no number it can be");
    return value;
  }

  void refuse_unknown_tensors() const {
    for (const auto& [name, tensor] : file_.tensors()) {
      if (kTensorNames.count(name) == 0)
        refuse("it is no recorded call: it holds a tensor " + escaped(name));
    }
  }

 private:
  static std::string expected(const std::string& dtype, const Extents& extents,
                              const Extents& limits) {
    std::string text = dtype + " [";
    for (size_t i = 0; i < extents.size(); ++i) {
      text += i == 0 ? "" : ", ";
      text += extents[i] >= 0          ? std::to_string(extents[i])
              : limits[i] == INT64_MAX ? std::string("1 or more")
                                       : "1 to " + std::to_string(limits[i]);
    }
    return text + "]";
  }

  SafetensorsFile& file_;
};

RecordedScope read_scope(const Reader& reader, const std::string& prefix,
                         const std::string& block_size, int64_t batch, int64_t queries) {
  RecordedScope scope;
  scope.shape.format = STEADY_CACHE_FP8;
  scope.shape.page_tokens = reader.number<int32_t>(block_size);
  if (scope.shape.page_tokens < 1)
    reader.refuse("its metadata gives " + block_size + " as " +
                  std::to_string(scope.shape.page_tokens) + ", but a page holds 1 token or more");

  const Tensor& slots =
      reader.tensor(prefix + "_indices", "I32", {batch, queries, -1}, {0, 0, STEADY_MAX_TOKENS});
  const int32_t width = static_cast<int32_t>(slots.shape[2]);
  scope.shape.max_tokens = width;

  const std::string cache_name = prefix + "_cache";
  const Tensor& cache = reader.tensor(cache_name, "U8", {-1, -1}, {INT64_MAX, INT64_MAX});
  scope.page_count = cache.shape[0];
  scope.page_stride_bytes = cache.shape[1];
  const int64_t page_bytes = steady_page_bytes(STEADY_CACHE_FP8, scope.shape.page_tokens);
  if (scope.page_stride_bytes < page_bytes)
    reader.refuse("a page of " + cache_name + " is " + std::to_string(scope.page_stride_bytes) +
                  " bytes, but " + std::to_string(scope.shape.page_tokens) + " tokens need " +
                  std::to_string(page_bytes));
  if (scope.page_count > INT64_MAX / scope.shape.page_tokens)
    reader.refuse(cache_name + " holds more tokens than 64 bits can count");

  const std::string lengths_name = prefix + "_lengths";
  if (reader.has(lengths_name)) {
    scope.lengths = reader.values<int32_t>(lengths_name, "I32", {batch});
  } else {
    scope.lengths.assign(batch, width);
  }
  for (const int32_t length : scope.lengths) {
    if (length < 0 || length > width)
      reader.refuse(lengths_name + " holds " + std::to_string(length) +
                    ", but a length is 0 to the width, " + std::to_string(width));
  }
  scope.slots = reader.read<int32_t>(slots);
  scope.pages = reader.read<uint8_t>(cache);
  return scope;
}

std::vector<float> read_sinks(const Reader& reader, int64_t heads) {
  if (!reader.has("attn_sink")) return {};
  auto sinks = reader.values<float>("attn_sink", "F32", {heads});
  if (std::any_of(sinks.begin(), sinks.end(), [](float sink) { return std::isnan(sink); }))
    reader.refuse("attn_sink holds a NaN, but a sink is a number or an infinity");
  return sinks;
}

float read_softmax_scale(const Reader& reader) {
  const auto scale = static_cast<float>(reader.number<double>("softmax_scale"));
  if (!std::isfinite(scale)) reader.refuse("its metadata gives a softmax_scale that is not finite");
  return scale;
}

}  // namespace

std::vector<const RecordedScope*> RecordedCall::scopes() const {
  if (compressed) return {&window, &*compressed};
  return {&window};
}

RecordedCall load_recorded_call(SafetensorsFile& file) {
  const Reader reader(file);
  reader.refuse_unknown_tensors();
  const Tensor& q =
      reader.tensor("q", "BF16", {-1, -1, -1, STEADY_HEAD_DIM},
                    {STEADY_MAX_BATCH, STEADY_MAX_QUERIES, STEADY_MAX_HEADS, STEADY_HEAD_DIM});
  const int64_t batch = q.shape[0], queries = q.shape[1], heads = q.shape[2];

  RecordedCall call;
  call.shape.struct_size = sizeof(steady_shape);
  call.shape.heads = static_cast<int32_t>(heads);
  call.shape.queries = static_cast<int32_t>(queries);
  call.shape.max_batch = static_cast<int32_t>(batch);
  call.shape.kinds = 1;
  call.shape.softmax_scale = read_softmax_scale(reader);

  call.window = read_scope(reader, "swa", "block_size", batch, queries);
  call.shape.window = call.window.shape;
  if (reader.has("extra_cache") || reader.has("extra_indices") || reader.has("extra_lengths")) {
    call.compressed = read_scope(reader, "extra", "extra_block_size", batch, queries);
    call.shape.compressed[0] = call.compressed->shape;
  }
  call.q = reader.read<uint16_t>(q);
  call.sinks = read_sinks(reader, heads);

  const Extents lse_shape = {batch, queries, heads};
  call.out_exact = reader.values<float>("out_exact", "F32", q.shape);
  call.lse_exact = reader.values<float>("lse_exact", "F32", lse_shape);
  call.out_recorded = reader.values<uint16_t>("out_flashmla", "BF16", q.shape);
  call.lse_recorded = reader.values<float>("lse_flashmla", "F32", lse_shape);
  // FlashMLA marks an empty row with +inf, which no other row can have.
  std::replace(call.lse_recorded.begin(), call.lse_recorded.end(), INFINITY, -INFINITY);
  return call;
}

SlotCensus count_slots(const RecordedScope& scope, int queries, std::span<const int32_t> slots,
                       std::span<const int32_t> lengths) {
  SlotCensus census;
  const int32_t width = scope.shape.max_tokens;
  for (size_t row = 0; row < lengths.size() * queries; ++row) {
    const int32_t length = std::clamp(lengths[row / queries], 0, width);
    census.past_length += width - length;
    for (const int32_t slot : slots.subspan(row * width, length)) {
      if (slot >= 0 && slot < scope.capacity()) {
        ++census.valid;
        census.read.push_back(slot);
      } else {
        ++(slot == -1 ? census.none : census.stray);
      }
    }
  }
  std::sort(census.read.begin(), census.read.end());
  census.read.erase(std::unique(census.read.begin(), census.read.end()), census.read.end());
  return census;
}

}  // namespace steady::support
