// SPDX-License-Identifier: Apache-2.0
// The sizes of a case in, caches, slots and queries filled with random values out.
#include "bench/inputs.hpp"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>

namespace steady::bench {
namespace {

constexpr int32_t kPageTokens = 64;

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

  void copy_any_to(uint8_t* page, int32_t token, std::mt19937* random) const {
    const auto from = static_cast<int32_t>((*random)() % kPaletteTokens);
    std::memcpy(page + steady_data_offset(STEADY_CACHE_FP8, token),
                page_.data() + steady_data_offset(STEADY_CACHE_FP8, from), STEADY_FP8_DATA_BYTES);
    std::memcpy(page + steady_fp8_scales_offset(kPageTokens, token),
                page_.data() + steady_fp8_scales_offset(kPaletteTokens, from),
                STEADY_FP8_SCALE_BYTES);
  }

 private:
  static constexpr int32_t kPaletteTokens = 1024;
  std::vector<uint8_t> page_;
};

int sets_for(const Case& sizes) {
  constexpr int64_t kLeastBytes = int64_t{64} << 20, kMostBytes = int64_t{256} << 20;
  const int64_t rotation =
      std::clamp<int64_t>(2 * sysconf(_SC_LEVEL3_CACHE_SIZE), kLeastBytes, kMostBytes);
  const int64_t set_bytes = int64_t{1} * sizes.batch * sizes.tokens() * STEADY_FP8_TOKEN_BYTES;
  return static_cast<int>(std::clamp<int64_t>(rotation / set_bytes + 1, 2, 256));
}

}  // namespace

steady_shape Case::shape() const {
  auto shape = make<steady_shape>();
  shape.heads = heads;
  shape.queries = queries;
  shape.max_batch = batch;
  shape.kinds = 1;
  shape.softmax_scale = 1 / std::sqrt(float{STEADY_HEAD_DIM});
  shape.window = {STEADY_CACHE_FP8, kPageTokens, window};
  shape.compressed[0] = {STEADY_CACHE_FP8, kPageTokens, compressed};
  return shape;
}

Scope::Scope(const Engine& engine, const steady_pool_shape& shape, const Case& sizes, int sets,
             std::mt19937* random)
    : shape_(shape),
      request_tokens_(int64_t{2} * shape.max_tokens),
      page_count_(round_up(sizes.batch * request_tokens_, kPageTokens) / kPageTokens),
      page_stride_bytes_(
          round_up(steady_page_bytes(shape.format, kPageTokens), STEADY_FP8_DATA_BYTES)),
      slots_a_set_(int64_t{1} * sizes.rows() * shape.max_tokens),
      pages_(engine, sets * page_count_ * page_stride_bytes_),
      slots_(engine, sets * slots_a_set_) {
  fill_pages(sets, random);
  fill_slots(sizes, sets, random);
}

void Scope::fill_pages(int sets, std::mt19937* random) {
  const Palette palette(random);
  for (int64_t page = 0; page < sets * page_count_; ++page) {
    uint8_t* const begin = pages_.data() + page * page_stride_bytes_;
    for (int32_t token = 0; token < kPageTokens; ++token) palette.copy_any_to(begin, token, random);
  }
}

void Scope::fill_slots(const Case& sizes, int sets, std::mt19937* random) {
  std::vector<int32_t> choice(request_tokens_);
  std::vector<char> seen(sizes.batch * request_tokens_);
  int32_t* slots = slots_.data();
  for (int set = 0; set < sets; ++set) {
    for (int row = 0; row < sizes.rows(); ++row) {
      const auto first = static_cast<int32_t>(row / sizes.queries * request_tokens_);
      std::iota(choice.begin(), choice.end(), first);
      std::shuffle(choice.begin(), choice.end(), *random);
      slots = std::copy_n(choice.begin(), shape_.max_tokens, slots);
      if (set > 0) continue;
      for (int i = 0; i < shape_.max_tokens; ++i) {
        unique_tokens_ += seen[choice[i]] == 0;
        seen[choice[i]] = 1;
      }
    }
  }
}

steady_pool Scope::pool(int set) const {
  return {pages_.data() + set * page_count_ * page_stride_bytes_, page_stride_bytes_, page_count_,
          slots_.data() + set * slots_a_set_, 0};
}

Inputs::Inputs(const Engine& engine, const Case& sizes)
    : sizes_(sizes),
      sets_(sets_for(sizes)),
      window_(engine, sizes.shape().window, sizes, sets_, &random_),
      compressed_(engine, sizes.shape().compressed[0], sizes, sets_, &random_),
      q_(engine, sets_ * sizes.vector_values()),
      sinks_(sizes.heads) {
  std::generate_n(q_.data(), q_.size(), [&] { return random_bf16(&random_); });
  std::normal_distribution<float> normal;
  std::generate(sinks_.begin(), sinks_.end(), [&] { return normal(random_); });
}

steady_layer Inputs::layer(int set, uint16_t* out) const {
  auto layer = make<steady_layer>();
  layer.q = q_.data() + set * sizes_.vector_values();
  layer.out = out;
  layer.sink = sinks_.data();
  layer.window = window_.pool(set);
  layer.compressed = compressed_.pool(set);
  return layer;
}

double Inputs::unique_bytes() const {
  return static_cast<double>(window_.unique_tokens() + compressed_.unique_tokens()) *
         STEADY_FP8_TOKEN_BYTES;
}

}  // namespace steady::bench
