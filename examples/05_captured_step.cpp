// SPDX-License-Identifier: Apache-2.0
// A step captured once in; right answers out for lengths, slots and queries that change in place
// afterwards: each replay has the bits of an eager step. Runs on a CPU.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "steady/steady.hpp"

namespace {

constexpr int kHeads = 4, kBatch = 3, kWidth = 100, kTokens = 1000, kLayers = 3, kSteps = 32;
constexpr int kVectors = kBatch * kHeads;

std::mt19937 random_bits(1);

int random_below(int end) { return std::uniform_int_distribution(0, end - 1)(random_bits); }

void fill_page(steady_cache_format format, int count, void* page) {
  std::normal_distribution<float> normal;
  for (int i = 0; i < count; ++i) {
    float values[STEADY_HEAD_DIM];
    for (float& value : values) value = normal(random_bits);
    steady::check(steady_pack_token(format, values, page, count, i));
  }
}

}  // namespace

int main() {
  auto shape = steady::make<steady_shape>();
  shape.heads = kHeads;
  shape.queries = shape.kinds = 1;
  shape.max_batch = kBatch;
  shape.softmax_scale = 1 / std::sqrt(512.0f);
  shape.window = {STEADY_CACHE_FP8, kTokens, kWidth};
  auto options = steady::make<steady_options>();
  options.backend = STEADY_CPU;
  const steady::Engine engine(shape, options);
  const steady::Workspace workspace(engine);
  const steady::Stream stream(engine);

  // What a graph was captured with stays where it is; only its contents change.
  std::vector<uint8_t> page(steady_page_bytes(STEADY_CACHE_FP8, kTokens));
  fill_page(STEADY_CACHE_FP8, kTokens, page.data());
  std::vector<uint16_t> q(kVectors * STEADY_HEAD_DIM), eager(kLayers * q.size()), replayed(eager);
  std::vector<int32_t> lengths(kBatch), slots(kBatch * kWidth, -1);

  auto step = steady::make<steady_step>();
  step.batch = kBatch;
  step.window.values = lengths.data();
  auto layer = steady::make<steady_layer>();
  layer.q = q.data();
  layer.window = {page.data(), static_cast<int64_t>(page.size()), 1, slots.data(), 0};
  const auto run = [&](std::vector<uint16_t>& out, steady_stream on) {
    engine.plan(workspace, step, on);
    for (int i = 0; i < kLayers; ++i) {
      layer.out = out.data() + i * q.size();
      engine.decode(workspace, step, layer, on);
    }
  };

  // All lengths are 0 here. The plan is part of the graph, so none of that goes stale.
  const steady::Graph graph = engine.capture(stream, [&] { run(replayed, stream); });

  for (int i = 0; i < kSteps; ++i) {
    fill_page(STEADY_CACHE_BF16, kVectors, q.data());
    for (int32_t& length : lengths) length = random_below(kWidth + 1);
    for (int32_t& slot : slots) slot = random_below(kTokens + 1) - 1;
    graph.replay(stream);
    run(eager, nullptr);
    if (replayed != eager) {
      std::printf("step %d: replayed and eager bits differ\n", i);
      return 1;
    }
  }
  const bool empty =
      std::all_of(eager.begin(), eager.end(), [](uint16_t bits) { return bits == 0; });
  std::printf("%d steps replayed, bit for bit the eager ones\n", kSteps);
  return empty ? 1 : 0;
}
