// SPDX-License-Identifier: Apache-2.0
// A description of a decode step goes in; its legal but nasty inputs come out.
#include "tests/support/hostile_case.hpp"

#include <algorithm>
#include <cstring>
#include <sstream>

#include "tests/support/layout.hpp"
#include "tests/support/values.hpp"

namespace steady::test {
namespace {

constexpr uint8_t kPoison = 0xFF;  // NaN as e4m3 and as ue8m0, two of them as bf16
constexpr int32_t kMin = std::numeric_limits<int32_t>::min();
constexpr int32_t kMax = std::numeric_limits<int32_t>::max();

struct Layout {
  steady_strides strides;
  int64_t elements;  // from the first to the last, both included
};

// Dimensions in any order, each with a gap behind it.
Layout loose_layout(const Extents& extents, int64_t inner, Random& random) {
  Layout layout = {};
  int64_t* strides[] = {&layout.strides.batch, &layout.strides.query, &layout.strides.head};
  const int64_t counts[] = {extents.batch, extents.queries, extents.heads};
  int order[] = {2, 1, 0};
  for (int64_t i = 2; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
  int64_t running = inner + random.below(4);
  layout.elements = inner;
  for (const int dimension : order) {
    *strides[dimension] = running;
    layout.elements += (counts[dimension] - 1) * running;
    running = running * counts[dimension] + random.below(4);
  }
  return layout;
}

Layout layout_of(const CaseSpec& spec, int64_t inner, Random& random) {
  const Extents extents = {spec.batch, spec.queries, spec.heads};
  if (spec.loose) return loose_layout(extents, inner, random);
  return {{}, extents.batch * extents.queries * extents.heads * inner};
}

int32_t wild_slot(int64_t pool_tokens, Random& random) {
  const auto behind = static_cast<int32_t>(std::min<int64_t>(pool_tokens, kMax));
  const int32_t wild[] = {kMin, -2, behind, kMax};
  return wild[random.below(4)];
}

int32_t random_length(const ScopeSpec& spec, Random& random) {
  const int32_t longest = std::min(spec.width, spec.longest);
  const int32_t wild[] = {kMin, -1, kMax, spec.width + 1};
  if (spec.wild_lengths && random.percent(50))
    return wild[random.below(spec.longest < spec.width ? 2 : 4)];
  if (random.percent(15)) return 0;
  if (random.percent(15)) return longest;
  return static_cast<int32_t>(random.below(longest + 1));
}

float random_sink(Sinks sinks, Random& random) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float values[] = {0, -50, 50, -kInfinity, kInfinity};
  if (random.percent(50)) return static_cast<float>(random.normal());
  return values[random.below(sinks == Sinks::kFinite ? 3 : 5)];
}

steady_pool_shape pool_shape(const ScopeSpec& spec) {
  return {spec.format, spec.page_tokens, spec.width};
}

}  // namespace

std::string describe(const CaseSpec& spec) {
  std::ostringstream text;
  const auto scope = [&](const char* name, const ScopeSpec& s) {
    text << ", " << name << ' ' << s.width << (s.format == STEADY_CACHE_FP8 ? " fp8" : " bf16")
         << " pages of " << s.page_tokens << " lengths " << static_cast<int>(s.lengths);
  };
  text << spec.batch << " requests, " << spec.queries << " queries, " << spec.heads << " heads";
  scope("window", spec.window);
  for (const ScopeSpec& kind : spec.compressed) scope("compressed", kind);
  text << ", seed " << spec.seed;
  return text.str();
}

uint8_t* token_data(const steady_pool_shape& shape, const steady_pool& pool, int64_t slot) {
  return const_cast<uint8_t*>(static_cast<const uint8_t*>(pool.pages)) +
         slot / shape.page_tokens * pool.page_stride_bytes +
         slot % shape.page_tokens *
             (shape.format == STEADY_CACHE_FP8 ? STEADY_FP8_DATA_BYTES : STEADY_BF16_TOKEN_BYTES);
}

uint8_t* token_scales(const steady_pool_shape& shape, const steady_pool& pool, int64_t slot) {
  const int64_t token = slot % shape.page_tokens;
  return token_data(shape, pool, slot - token) +
         int64_t{shape.page_tokens} * STEADY_FP8_DATA_BYTES + token * STEADY_FP8_SCALE_BYTES;
}

void fill_token(const steady_pool_shape& shape, const steady_pool& pool, int64_t slot,
                Random& random) {
  uint8_t* data = token_data(shape, pool, slot);
  int d = 0;
  if (shape.format == STEADY_CACHE_FP8) {
    for (; d < STEADY_NOPE_DIM; ++d)
      *data++ = static_cast<uint8_t>(random.below(0x7F) | (random.below(2) << 7));
    for (int group = 0; group < STEADY_FP8_SCALES; ++group)
      token_scales(shape, pool, slot)[group] = static_cast<uint8_t>(118 + random.below(4));
  }
  for (; d < STEADY_HEAD_DIM; ++d) {
    const uint16_t bits = nearest_bf16(random.normal());
    *data++ = static_cast<uint8_t>(bits & 255);
    *data++ = static_cast<uint8_t>(bits >> 8);
  }
}

HostileCase::HostileCase(const CaseSpec& spec) : spec_(spec), memory_(spec.layers.size()) {
  shape_.struct_size = sizeof(shape_);
  shape_.heads = spec.heads;
  shape_.queries = spec.queries;
  shape_.max_batch = spec.max_batch != 0 ? spec.max_batch : spec.batch;
  shape_.kinds = static_cast<int32_t>(spec.compressed.size());
  shape_.softmax_scale = spec.softmax_scale;
  shape_.window = pool_shape(spec.window);
  std::transform(spec.compressed.begin(), spec.compressed.end(), shape_.compressed, pool_shape);
  step.struct_size = sizeof(step);
  step.batch = spec.batch;
  make_lengths();
  Random random(spec.seed);
  for (size_t layer = 0; layer < spec.layers.size(); ++layer) make_layer(layer, random);
  refill(spec.seed);
}

void HostileCase::make_lengths() {
  const auto make = [this](const ScopeSpec& scope) {
    steady_lengths made = {};
    const bool per_query = scope.lengths == Lengths::kPerQuery;
    lengths_.emplace_back(per_query ? rows() : spec_.batch);
    if (scope.lengths != Lengths::kAbsent) made.values = lengths_.back().data();
    made.per_query = per_query ? 1 : 0;
    return made;
  };
  step.window = make(spec_.window);
  std::transform(spec_.compressed.begin(), spec_.compressed.end(), step.compressed, make);
}

steady_pool HostileCase::make_pool(size_t layer, int scope, Random& random) {
  const ScopeSpec& s = scope_spec(layer, scope);
  if (s.width == 0) return {};
  steady_pool pool = {};
  const int64_t tokens = std::min<int64_t>(2 * int64_t{s.width} + 8, 1500);
  pool.page_count = std::max(tokens, s.pool_tokens) / s.page_tokens + 2;
  const int64_t page_bytes = steady_page_bytes(s.format, s.page_tokens);
  pool.page_stride_bytes = page_bytes;
  if (spec_.loose) {
    const int64_t gap = random.below(100);
    pool.page_stride_bytes += s.format == STEADY_CACHE_FP8 ? gap : 2 * gap;
  }
  pool.slots_stride = spec_.loose ? s.width + random.below(4) : 0;
  const int64_t slots_stride = std::max<int64_t>(pool.slots_stride, s.width);
  PoolMemory& memory = memory_[layer].scopes[scope];
  memory.pages = OddBuffer<uint8_t>((pool.page_count - 1) * pool.page_stride_bytes + page_bytes,
                                    s.format == STEADY_CACHE_FP8 ? 1 : 2);
  memory.slots = OddBuffer<int32_t>((rows() - 1) * slots_stride + s.width);
  pool.pages = memory.pages.data();
  pool.slots = memory.slots.data();
  return pool;
}

void HostileCase::make_layer(size_t layer, Random& random) {
  LayerMemory& memory = memory_[layer];
  const Layout q = layout_of(spec_, STEADY_HEAD_DIM, random);
  const Layout out = layout_of(spec_, STEADY_HEAD_DIM, random);
  const Layout lse = layout_of(spec_, 1, random);
  memory.q = OddBuffer<uint16_t>(q.elements);
  memory.out = OddBuffer<uint16_t>(out.elements + 2 * kMargin);
  memory.lse = OddBuffer<float>(lse.elements + 2 * kMargin);
  memory.sink = OddBuffer<float>(spec_.heads);
  steady_layer made = {};
  made.struct_size = sizeof(made);
  made.kind = spec_.layers[layer];
  made.q = memory.q.data();
  made.q_strides = q.strides;
  made.out = memory.out.data() + kMargin;
  made.out_strides = out.strides;
  made.lse = spec_.with_lse ? memory.lse.data() + kMargin : nullptr;
  made.lse_strides = lse.strides;
  made.sink = spec_.sinks == Sinks::kAbsent ? nullptr : memory.sink.data();
  made.window = make_pool(layer, 0, random);
  made.compressed = make_pool(layer, 1, random);
  layers.push_back(made);
}

const ScopeSpec& HostileCase::scope_spec(size_t layer, int scope) const {
  const auto kind = static_cast<size_t>(spec_.layers[layer]);
  return scope == 0 ? spec_.window : spec_.compressed[kind];
}

steady_pool_shape HostileCase::scope_shape(size_t layer, int scope) const {
  return pool_shape(scope_spec(layer, scope));
}

int64_t HostileCase::row_length(size_t layer, int scope, int64_t row) const {
  const ScopeSpec& s = scope_spec(layer, scope);
  const steady_lengths& lengths = scope == 0 ? step.window : step.compressed[spec_.layers[layer]];
  if (lengths.values == nullptr) return s.width;
  return std::clamp(lengths.values[lengths.per_query != 0 ? row : row / spec_.queries], 0, s.width);
}

void HostileCase::refill(uint64_t seed) {
  Random random(seed);
  fill_lengths(random);
  refill_contents(random.next());
}

void HostileCase::refill_contents(uint64_t seed) {
  Random random(seed);
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    std::vector<bool> has_tokens(static_cast<size_t>(rows()));
    fill_pool(layer, 0, random, has_tokens);
    fill_pool(layer, 1, random, has_tokens);
    fill_queries(layer, random, has_tokens);
    for (float& sink : memory_[layer].sink) sink = random_sink(spec_.sinks, random);
  }
  reset_outputs();
}

void HostileCase::fill_lengths(Random& random) {
  for (size_t i = 0; i < lengths_.size(); ++i)
    for (int32_t& length : lengths_[i])
      length = random_length(i == 0 ? spec_.window : spec_.compressed[i - 1], random);
}

void HostileCase::fill_pool(size_t layer, int scope, Random& random,
                            std::vector<bool>& has_tokens) {
  const ScopeSpec& s = scope_spec(layer, scope);
  if (s.width == 0) return;
  const steady_pool& pool = scope == 0 ? layers[layer].window : layers[layer].compressed;
  PoolMemory& memory = memory_[layer].scopes[scope];
  std::memset(memory.pages.data(), kPoison, static_cast<size_t>(memory.pages.size()));
  // Odd slots may be named, even ones keep their poison.
  const int64_t pool_tokens = pool.page_count * s.page_tokens;
  const int64_t pairs = pool_tokens / 2;
  for (int32_t& slot : memory.slots)
    slot = random.percent(50) ? wild_slot(pool_tokens, random)
                              : static_cast<int32_t>(2 * random.below(pairs));
  std::vector<bool> filled(static_cast<size_t>(pairs));
  const int64_t stride = std::max<int64_t>(pool.slots_stride, s.width);
  for (int64_t row = 0; row < rows(); ++row) {
    const int64_t length = row_length(layer, scope, row);
    for (int64_t position = 0; position < length; ++position) {
      int32_t& slot = memory.slots[row * stride + position];
      slot = -1;
      if (random.percent(s.hole_percent)) continue;
      slot = wild_slot(pool_tokens, random);
      if (random.percent(s.stray_percent)) continue;
      const int64_t pair = random.below(pairs);
      slot = static_cast<int32_t>(2 * pair + 1);
      has_tokens[static_cast<size_t>(row)] = true;
      if (filled[static_cast<size_t>(pair)]) continue;
      fill_token(scope_shape(layer, scope), pool, slot, random);
      filled[static_cast<size_t>(pair)] = true;
    }
  }
}

void HostileCase::fill_queries(size_t layer, Random& random, const std::vector<bool>& has_tokens) {
  OddBuffer<uint16_t>& q = memory_[layer].q;
  std::fill(q.begin(), q.end(), kPoisonedQuery);
  int64_t vector = 0;
  for_each_vector(extents(), layers[layer].q_strides, STEADY_HEAD_DIM, [&](int64_t at) {
    if (!has_tokens[static_cast<size_t>(vector++ / spec_.heads)]) return;
    for (int d = 0; d < STEADY_HEAD_DIM; ++d) q[at + d] = nearest_bf16(1.5 * random.normal());
  });
}

}  // namespace steady::test
