// SPDX-License-Identifier: Apache-2.0
// Random tokens and queries in, the fast path's and the oracle's answers out, and how far they are
// apart. Uploads and downloads, and so runs on any backend.
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>
#include <vector>

#include "steady/steady.hpp"

namespace {

constexpr int kHeads = 8, kBatch = 4, kTokens = 640, kPageTokens = 64;
constexpr int kVectors = kBatch * kHeads;

/// `count` random vectors of 512, packed one after the other into pages.
std::vector<uint8_t> random_pages(steady_cache_format format, int count, int page_tokens) {
  static std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto page_bytes = static_cast<size_t>(steady_page_bytes(format, page_tokens));
  std::vector<uint8_t> pages(page_bytes * count / page_tokens);
  for (int i = 0; i < count; ++i) {
    float values[STEADY_HEAD_DIM];
    for (float& value : values) value = normal(random);
    steady::check(steady_pack_token(format, values, &pages[page_bytes * (i / page_tokens)],
                                    page_tokens, i % page_tokens));
  }
  return pages;
}

template <class T>
steady::DeviceArray<T> on_device(const steady::Engine& engine, const std::vector<T>& host) {
  steady::DeviceArray<T> device(engine, host.size());
  engine.upload(device.data(), host.data(), host.size() * sizeof(T));
  return device;
}

std::vector<float> decode(steady_backend backend, const std::vector<uint8_t>& host_pages,
                          const std::vector<uint8_t>& host_q) {
  auto shape = steady::make<steady_shape>();
  shape.heads = kHeads;
  shape.queries = shape.kinds = 1;
  shape.max_batch = kBatch;
  shape.softmax_scale = 1 / std::sqrt(512.0f);
  shape.window = {STEADY_CACHE_FP8, kPageTokens, kTokens};
  auto options = steady::make<steady_options>();
  options.backend = backend;
  const steady::Engine engine(shape, options);

  // Every request reads all tokens.
  std::vector<int32_t> host_slots(kBatch * kTokens);
  for (int i = 0; i < kBatch; ++i) {
    std::iota(&host_slots[i * kTokens], &host_slots[i * kTokens] + kTokens, 0);
  }
  const auto pages = on_device(engine, host_pages), q = on_device(engine, host_q);
  const auto slots = on_device(engine, host_slots);
  const steady::DeviceArray<uint16_t> out(engine, kVectors * STEADY_HEAD_DIM);

  const steady::Workspace workspace(engine);
  auto step = steady::make<steady_step>();
  step.batch = kBatch;
  auto layer = steady::make<steady_layer>();
  layer.q = reinterpret_cast<const uint16_t*>(q.data());
  layer.out = out.data();
  layer.window = {pages.data(), steady_page_bytes(STEADY_CACHE_FP8, kPageTokens),
                  kTokens / kPageTokens, slots.data(), 0};
  engine.plan(workspace, step);
  engine.decode(workspace, step, layer);

  std::vector<uint16_t> bits(out.size());
  engine.download(bits.data(), out.data(), bits.size() * sizeof(uint16_t));
  steady::check(steady_stream_wait(engine.get(), nullptr));
  std::vector<float> values(out.size());
  for (int i = 0; i < kVectors; ++i) {
    steady::check(steady_unpack_token(STEADY_CACHE_BF16, bits.data(), kVectors, i,
                                      &values[static_cast<size_t>(i) * STEADY_HEAD_DIM]));
  }
  return values;
}

}  // namespace

int main() {
  const auto pages = random_pages(STEADY_CACHE_FP8, kTokens, kPageTokens);
  const auto q = random_pages(STEADY_CACHE_BF16, kVectors, kVectors);
  const auto fast = decode(STEADY_CPU, pages, q), exact = decode(STEADY_ORACLE, pages, q);
  double difference = 0, size = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    difference += std::pow(fast[i] - exact[i], 2);
    size += std::pow(exact[i], 2);
  }
  const double error = std::sqrt(difference / size);
  std::printf("fast path against oracle: |a - b| / |b| = %.2e, allowed 2.5e-3\n", error);
  return error < 2.5e-3 ? 0 : 1;
}
