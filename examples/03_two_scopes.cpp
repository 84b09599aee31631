// SPDX-License-Identifier: Apache-2.0
// A window and a compressed pool with lengths, holes and a sink in, one softmax over both out,
// beside the definition in a dozen lines. Runs on a CPU, where device memory is any memory.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "steady/steady.hpp"

namespace {

constexpr int kBatch = 3, kWidth = 4, kTokens = 4;
constexpr float kSink = 0.5f, kScale = 0.05f;

// Request 0 reads every token. Request 1 has holes (-1), and lengths shorter than the width.
// Request 2 reads nothing. 99 stands where nothing may be read.
constexpr int32_t kSlots[2][kBatch][kWidth] = {{{3, 0, 2, 1}, {2, -1, 0, 99}, {-1, -1, 99, 99}},
                                               {{0, 1, 2, 3}, {-1, 3, 99, 99}, {99, 99, 99, 99}}};
constexpr int32_t kLengths[2][kBatch] = {{4, 3, 2}, {4, 2, 0}};

/// Random vectors: as a page, and as they read back from it.
struct Page {
  std::vector<uint8_t> bytes;
  float values[kTokens][STEADY_HEAD_DIM];

  explicit Page(steady_cache_format format) : bytes(steady_page_bytes(format, kTokens)) {
    static std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (int i = 0; i < kTokens; ++i) {
      for (float& value : values[i]) value = normal(random);
      steady::check(steady_pack_token(format, values[i], bytes.data(), kTokens, i));
      steady::check(steady_unpack_token(format, bytes.data(), kTokens, i, values[i]));
    }
  }
};

/// Whether a request's answer is the definition's, up to the rounding of out to bf16.
bool agrees(int request, const float* q, const Page* pools, const float* out, float lse) {
  double sum = 0, weighted[STEADY_HEAD_DIM] = {};
  for (int scope = 0; scope < 2; ++scope) {
    for (int i = 0; i < kLengths[scope][request]; ++i) {
      const int32_t slot = kSlots[scope][request][i];
      if (slot < 0) continue;
      const float* token = pools[scope].values[slot];
      double score = 0;
      for (int d = 0; d < STEADY_HEAD_DIM; ++d) score += double{kScale} * q[d] * token[d];
      for (int d = 0; d < STEADY_HEAD_DIM; ++d) weighted[d] += std::exp(score) * token[d];
      sum += std::exp(score);
    }
  }
  bool right = sum == 0 ? std::isinf(lse) && lse < 0 : std::fabs(lse - std::log(sum)) < 1e-4;
  for (int d = 0; d < STEADY_HEAD_DIM; ++d) {
    const double exact = weighted[d] / (sum + std::exp(kSink));
    right &= std::fabs(out[d] - exact) <= std::fabs(exact) / 256 + 1e-5;
  }
  return right;
}

}  // namespace

int main() {
  auto shape = steady::make<steady_shape>();
  shape.heads = shape.queries = shape.kinds = 1;
  shape.max_batch = kBatch;
  shape.softmax_scale = kScale;
  shape.window = {STEADY_CACHE_FP8, kTokens, kWidth};
  shape.compressed[0] = {STEADY_CACHE_BF16, kTokens, kWidth};
  auto options = steady::make<steady_options>();
  options.backend = STEADY_CPU;
  const steady::Engine engine(shape, options);
  const steady::Workspace workspace(engine);

  const Page q(STEADY_CACHE_BF16), pools[] = {Page(STEADY_CACHE_FP8), Page(STEADY_CACHE_BF16)};
  uint16_t out[kBatch * STEADY_HEAD_DIM];
  float lse[kBatch];
  auto step = steady::make<steady_step>();
  step.batch = kBatch;
  step.window.values = kLengths[0];
  step.compressed[0].values = kLengths[1];
  auto layer = steady::make<steady_layer>();
  layer.q = reinterpret_cast<const uint16_t*>(q.bytes.data());
  layer.out = out;
  layer.lse = lse;
  layer.sink = &kSink;
  layer.window = {pools[0].bytes.data(), STEADY_FP8_TOKEN_BYTES * kTokens, 1, kSlots[0][0], 0};
  layer.compressed = {pools[1].bytes.data(), STEADY_BF16_TOKEN_BYTES * kTokens, 1, kSlots[1][0], 0};
  engine.plan(workspace, step);
  engine.decode(workspace, step, layer);

  bool right = true;
  for (int i = 0; i < kBatch; ++i) {
    float values[STEADY_HEAD_DIM];
    steady::check(steady_unpack_token(STEADY_CACHE_BF16, out, kBatch, i, values));
    const bool agreed = agrees(i, q.values[i], pools, values, lse[i]);
    std::printf("request %d: lse %9.6f, %s\n", i, lse[i], agreed ? "right" : "WRONG");
    right &= agreed;
  }
  return right ? 0 : 1;
}
