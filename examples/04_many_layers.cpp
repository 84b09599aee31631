// SPDX-License-Identifier: Apache-2.0
// The step of a whole model: 61 layers of three kinds in; their answers out, from one workspace and
// one plan, checked against the oracle's. Runs on a CPU, where device memory is any memory.
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>
#include <vector>

#include "steady/steady.hpp"

namespace {

constexpr int kLayers = 61, kHeads = 4, kBatch = 2;
constexpr int kVectors = kBatch * kHeads, kOutSize = kVectors * STEADY_HEAD_DIM;

// Slots of a request: in the window, and in the compressed pool of each kind of layer. Kind 0 has
// none, kind 1 one token for 4 of the text, kind 2 one for 128.
constexpr int kKinds = 3, kWindow = 16, kCompressed[kKinds] = {0, 32, 16};
constexpr int32_t kWindowLengths[kBatch] = {16, 5};
constexpr int32_t kCompressedLengths[kKinds][kBatch] = {{}, {32, 1}, {7, 0}};

int kind_of(int layer) { return layer < 2 ? 0 : layer % 2 == 0 ? 1 : 2; }

/// A page of random vectors.
std::vector<uint8_t> random_page(std::mt19937& random, steady_cache_format format, int count) {
  std::normal_distribution<float> normal;
  std::vector<uint8_t> page(steady_page_bytes(format, count));
  for (int i = 0; i < count; ++i) {
    float values[STEADY_HEAD_DIM];
    for (float& value : values) value = normal(random);
    steady::check(steady_pack_token(format, values, page.data(), count, i));
  }
  return page;
}

/// The answers of all layers, from the same inputs for every backend.
std::vector<float> decode(steady_backend backend) {
  auto shape = steady::make<steady_shape>();
  shape.heads = kHeads;
  shape.queries = 1;
  shape.max_batch = kBatch;
  shape.kinds = kKinds;
  shape.softmax_scale = 1 / std::sqrt(512.0f);
  shape.window = {STEADY_CACHE_FP8, kBatch * kWindow, kWindow};
  auto step = steady::make<steady_step>();
  step.batch = kBatch;
  step.window.values = kWindowLengths;
  for (int kind = 0; kind < kKinds; ++kind) {
    shape.compressed[kind] = {STEADY_CACHE_FP8, kBatch * kCompressed[kind], kCompressed[kind]};
    step.compressed[kind].values = kCompressedLengths[kind];
  }
  auto options = steady::make<steady_options>();
  options.backend = backend;
  const steady::Engine engine(shape, options);
  const steady::Workspace workspace(engine);
  engine.plan(workspace, step);

  std::vector<int32_t> slots(kBatch * 32);  // a request's tokens follow each other in every pool
  std::iota(slots.begin(), slots.end(), 0);
  std::vector<uint16_t> out(kLayers * kOutSize);
  std::mt19937 random(1);
  for (int i = 0; i < kLayers; ++i) {
    const int compressed_tokens = kBatch * kCompressed[kind_of(i)];
    const auto q = random_page(random, STEADY_CACHE_BF16, kVectors);
    const auto window = random_page(random, STEADY_CACHE_FP8, kBatch * kWindow);
    const auto compressed = random_page(random, STEADY_CACHE_FP8, compressed_tokens);
    auto layer = steady::make<steady_layer>();
    layer.kind = kind_of(i);
    layer.q = reinterpret_cast<const uint16_t*>(q.data());
    layer.out = out.data() + i * kOutSize;
    layer.window = {window.data(), steady_page_bytes(STEADY_CACHE_FP8, kBatch * kWindow), 1,
                    slots.data(), 0};
    layer.compressed = {compressed.data(), steady_page_bytes(STEADY_CACHE_FP8, compressed_tokens),
                        1, slots.data(), 0};
    engine.decode(workspace, step, layer);
  }

  std::vector<float> values(out.size());
  for (int i = 0; i < kLayers * kVectors; ++i) {
    steady::check(steady_unpack_token(STEADY_CACHE_BF16, out.data(), kLayers * kVectors, i,
                                      values.data() + i * STEADY_HEAD_DIM));
  }
  return values;
}

}  // namespace

int main() {
  const auto fast = decode(STEADY_CPU), exact = decode(STEADY_ORACLE);
  double difference = 0, size = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    difference += std::pow(fast[i] - exact[i], 2);
    size += std::pow(exact[i], 2);
  }
  const double error = std::sqrt(difference / size);
  std::printf("%d layers: |a - b| / |b| = %.1e, allowed 2.5e-3\n", kLayers, error);
  return error < 2.5e-3 ? 0 : 1;
}
