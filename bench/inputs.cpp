// SPDX-License-Identifier: Apache-2.0
// The sizes of a case in, caches, slots and queries filled with random values out.
#include "bench/inputs.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>

namespace steady::bench {
namespace {

constexpr int32_t kWindowPageTokens = 256;

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

uint16_t random_bf16(std::mt19937* random) {
  constexpr float kRange = 1.7320508f;  // of unit variance
  std::uniform_real_distribution<float> uniform(-kRange, kRange);
  return static_cast<uint16_t>(std::bit_cast<uint32_t>(uniform(*random)) >> 16);
}

/// Packed tokens that a cache is filled from; packing every one of them would take minutes.
class Palette {
 public:
  explicit Palette(std::mt19937* random)
      : page_(steady_page_bytes(STEADY_CACHE_FP8, kPaletteTokens)) {
    std::normal_distribution<float> normal;
    float values[STEADY_HEAD_DIM];
    for (int token = 0; token < kPaletteTokens; ++token) {
      std::generate(std::begin(values), std::end(values), [&] { return normal(*random); });
      check(steady_pack_token(STEADY_CACHE_FP8, values, page_.data(), kPaletteTokens, token));
    }
  }

  void copy_any_to(uint8_t* page, int32_t page_tokens, int32_t token, std::mt19937* random) const {
    const auto from = static_cast<int32_t>((*random)() % kPaletteTokens);
    std::memcpy(page + steady_data_offset(STEADY_CACHE_FP8, token),
                page_.data() + steady_data_offset(STEADY_CACHE_FP8, from), STEADY_FP8_DATA_BYTES);
    std::memcpy(page + steady_fp8_scales_offset(page_tokens, token),
                page_.data() + steady_fp8_scales_offset(kPaletteTokens, from),
                STEADY_FP8_SCALE_BYTES);
  }

 private:
  static constexpr int32_t kPaletteTokens = 1024;
  std::vector<uint8_t> page_;
};

int sets_for(const Case& sizes, int64_t rotation_bytes) {
  constexpr int64_t kLeastBytes = int64_t{64} << 20, kMostBytes = int64_t{256} << 20;
  const int fewest_tokens = sizes.tokens(sizes.kinds == 1 ? 0 : Case::kWindowAlone);
  const int64_t most_bytes = int64_t{1} * sizes.batch * fewest_tokens * STEADY_FP8_TOKEN_BYTES;
  const int64_t set_bytes = sizes.ragged ? most_bytes / 2 : most_bytes;  // half of them on average
  const int64_t bytes = std::clamp(rotation_bytes, kLeastBytes, kMostBytes);
  return static_cast<int>(std::clamp<int64_t>(bytes / set_bytes + 1, 2, 4096));
}

/// Of each request, scope after scope.
std::vector<int32_t> draw_lengths(const Case& sizes, std::mt19937* random) {
  const steady_shape shape = sizes.shape();
  std::vector<int32_t> lengths;
  const auto draw = [&](int32_t most) {
    std::uniform_int_distribution<int32_t> any(0, most);
    for (int request = 0; request < sizes.batch; ++request)
      lengths.push_back(sizes.ragged ? any(*random) : most);
  };
  draw(shape.window.max_tokens);
  for (int kind = 0; kind < sizes.kinds; ++kind) draw(shape.compressed[kind].max_tokens);
  return lengths;
}

/// Copies `values` to each set's part of `to`.
template <class T>
void upload_to_sets(const Engine& engine, const std::vector<T>& values, const DeviceArray<T>& to) {
  for (size_t at = 0; at < to.size(); at += values.size()) {
    engine.upload(to.data() + at, values.data(), values.size() * sizeof(T));
  }
}

}  // namespace

steady_shape Case::shape() const {
  auto shape = make<steady_shape>();
  shape.heads = heads;
  shape.queries = queries;
  shape.max_batch = batch;
  shape.kinds = kinds;
  shape.softmax_scale = 1 / std::sqrt(float{STEADY_HEAD_DIM});
  shape.window = {STEADY_CACHE_FP8, kWindowPageTokens, window};
  constexpr int32_t kPageTokens[] = {64, 64, 2};
  for (int kind = 0; kind < kinds; ++kind) {
    shape.compressed[kind] = {STEADY_CACHE_FP8, kPageTokens[kind], tokens(kind) - window};
  }
  return shape;
}

Scope::Scope(const Engine& engine, const steady_pool_shape& shape, const Case& sizes,
             const int32_t* lengths, int sets, std::mt19937* random)
    : shape_(shape),
      request_tokens_(int64_t{2} * shape.max_tokens),
      page_count_(round_up(sizes.batch * request_tokens_, shape.page_tokens) / shape.page_tokens),
      page_stride_bytes_(
          round_up(steady_page_bytes(shape.format, shape.page_tokens), STEADY_FP8_DATA_BYTES)),
      host_pages_(page_count_ * page_stride_bytes_),
      host_slots_(size_t{1} * sizes.rows() * shape.max_tokens),
      pages_(engine, sets * host_pages_.size()),
      slots_(engine, sets * host_slots_.size()) {
  if (shape.max_tokens == 0) return;
  fill_pages(random);
  fill_slots(sizes, lengths, random);
  upload_to_sets(engine, host_pages_, pages_);
  upload_to_sets(engine, host_slots_, slots_);
}

void Scope::fill_pages(std::mt19937* random) {
  const Palette palette(random);
  for (int64_t page = 0; page < page_count_; ++page) {
    uint8_t* const begin = host_pages_.data() + page * page_stride_bytes_;
    for (int32_t token = 0; token < shape_.page_tokens; ++token)
      palette.copy_any_to(begin, shape_.page_tokens, token, random);
  }
}

void Scope::fill_slots(const Case& sizes, const int32_t* lengths, std::mt19937* random) {
  std::vector<int32_t> choice(request_tokens_);
  std::vector<char> seen(sizes.batch * request_tokens_);
  int32_t* slots = host_slots_.data();
  for (int row = 0; row < sizes.rows(); ++row) {
    const auto first = static_cast<int32_t>(row / sizes.queries * request_tokens_);
    std::iota(choice.begin(), choice.end(), first);
    std::shuffle(choice.begin(), choice.end(), *random);
    slots = std::copy_n(choice.begin(), shape_.max_tokens, slots);
    for (int i = 0; i < lengths[row / sizes.queries]; ++i) {
      unique_tokens_ += seen[choice[i]] == 0;
      seen[choice[i]] = 1;
    }
  }
}

steady_pool Scope::pool(int set) const {
  return {pages_.data() + set * host_pages_.size(), page_stride_bytes_, page_count_,
          slots_.data() + set * host_slots_.size(), 0};
}

steady_pool Scope::host_pool() const {
  return {host_pages_.data(), page_stride_bytes_, page_count_, host_slots_.data(), 0};
}

Inputs::Inputs(const Engine& engine, const Case& sizes, int64_t rotation_bytes)
    : sizes_(sizes),
      sets_(sets_for(sizes, rotation_bytes)),
      host_lengths_(draw_lengths(sizes, &random_)),
      window_(engine, sizes.shape().window, sizes, host_lengths_.data(), sets_, &random_),
      host_q_(sizes.vector_values()),
      host_sinks_(sizes.heads),
      lengths_(engine, host_lengths_.size()),
      q_(engine, sets_ * host_q_.size()),
      sinks_(engine, host_sinks_.size()) {
  compressed_.reserve(sizes.kinds);
  for (int kind = 0; kind < sizes.kinds; ++kind) {
    compressed_.emplace_back(engine, sizes.shape().compressed[kind], sizes,
                             host_lengths_.data() + lengths_at(kind), sets_, &random_);
  }
  std::generate(host_q_.begin(), host_q_.end(), [&] { return random_bf16(&random_); });
  std::normal_distribution<float> normal;
  std::generate(host_sinks_.begin(), host_sinks_.end(), [&] { return normal(random_); });
  upload_to_sets(engine, host_lengths_, lengths_);
  upload_to_sets(engine, host_q_, q_);
  upload_to_sets(engine, host_sinks_, sinks_);
  check(steady_stream_wait(engine.get(), nullptr));
}

steady_step Inputs::step_with(const int32_t* lengths) const {
  auto step = make<steady_step>();
  step.batch = sizes_.batch;
  if (!sizes_.ragged) return step;
  step.window = {lengths, 0};
  for (int kind = 0; kind < sizes_.kinds; ++kind)
    step.compressed[kind] = {lengths + lengths_at(kind), 0};
  return step;
}

steady_layer Inputs::layer(int set, int kind, uint16_t* out) const {
  auto layer = make<steady_layer>();
  layer.kind = kind;
  layer.q = q_.data() + set * host_q_.size();
  layer.out = out;
  layer.sink = sinks_.data();
  layer.window = window_.pool(set);
  layer.compressed = compressed_[kind].pool(set);
  return layer;
}

steady_layer Inputs::host_layer(int kind, uint16_t* out) const {
  auto layer = make<steady_layer>();
  layer.kind = kind;
  layer.q = host_q_.data();
  layer.out = out;
  layer.sink = host_sinks_.data();
  layer.window = window_.host_pool();
  layer.compressed = compressed_[kind].host_pool();
  return layer;
}

double Inputs::flop(int kind) const {
  const auto tokens = [this](int at) {
    const auto begin = host_lengths_.begin() + at;
    return std::accumulate(begin, begin + sizes_.batch, int64_t{0});
  };
  return 2.0 * sizes_.heads * sizes_.queries *
         static_cast<double>(tokens(0) + tokens(lengths_at(kind))) * 2 * STEADY_HEAD_DIM;
}

double Inputs::unique_bytes(int kind) const {
  const int64_t tokens = window_.unique_tokens() + compressed_[kind].unique_tokens();
  return static_cast<double>(tokens) * STEADY_FP8_TOKEN_BYTES +
         2.0 * static_cast<double>(sizes_.vector_values()) * sizeof(uint16_t);
}

}  // namespace steady::bench
