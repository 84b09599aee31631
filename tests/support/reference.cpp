// SPDX-License-Identifier: Apache-2.0
// One layer's inputs go in, the textbook's softmax over them in float64 comes out.
#include "tests/support/reference.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>

#include "tests/support/layout.hpp"
#include "tests/support/values.hpp"

namespace steady::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

int64_t row_length(const steady_lengths& lengths, int64_t request, int64_t query, int64_t queries,
                   int64_t width) {
  if (lengths.values == nullptr) return width;
  const int64_t idx = lengths.per_query != 0 ? request * queries + query : request;
  return std::clamp<int64_t>(lengths.values[idx], 0, width);
}

using Tokens = std::vector<const std::vector<double>*>;

// One scope of a layer, de-quantised token by token as rows ask for it.
class Scope {
 public:
  Scope(const steady_pool_shape& shape, const steady_pool& pool) : shape_(shape), pool_(pool) {}

  void append_row(int64_t row, int64_t length, Tokens& tokens) {
    const int64_t stride = pool_.slots_stride != 0 ? pool_.slots_stride : shape_.max_tokens;
    for (int64_t position = 0; position < length; ++position) {
      const int64_t slot = pool_.slots[row * stride + position];
      // Divided instead of multiplied: a pool may claim more pages than 64 bits can count tokens.
      if (slot < 0 || slot / shape_.page_tokens >= pool_.page_count) continue;
      std::vector<double>& values = known_[slot];
      if (values.empty()) values = token_values(shape_, pool_, slot);
      tokens.push_back(&values);
    }
  }

 private:
  const steady_pool_shape& shape_;
  const steady_pool& pool_;
  std::unordered_map<int64_t, std::vector<double>> known_;
};

// The attention of one head: fills 512 values of out and returns the lse.
double attend(const std::vector<double>& query, const Tokens& tokens, double scale, double sink,
              double* out) {
  std::vector<double> scores;
  double max = -kInfinity;
  for (const std::vector<double>* token : tokens) {
    double score = 0;
    for (size_t d = 0; d < STEADY_HEAD_DIM; ++d) score += query[d] * (*token)[d];
    scores.push_back(scale * score);
    max = std::max(max, scores.back());
  }
  std::fill(out, out + STEADY_HEAD_DIM, 0.0);
  if (tokens.empty()) return -kInfinity;
  double sum = 0;
  for (size_t j = 0; j < tokens.size(); ++j) {
    const double weight = std::exp(scores[j] - max);
    sum += weight;
    for (size_t d = 0; d < STEADY_HEAD_DIM; ++d) out[d] += weight * (*tokens[j])[d];
  }
  const double total = sum + std::exp(sink - max);
  for (size_t d = 0; d < STEADY_HEAD_DIM; ++d) out[d] /= total;
  return max + std::log(sum);
}

}  // namespace

std::vector<double> token_values(const steady_pool_shape& shape, const steady_pool& pool,
                                 int64_t slot) {
  const auto* page =
      static_cast<const uint8_t*>(pool.pages) + slot / shape.page_tokens * pool.page_stride_bytes;
  const int64_t token = slot % shape.page_tokens;
  std::vector<double> values;
  const uint8_t* data = page + token * STEADY_BF16_TOKEN_BYTES;
  if (shape.format == STEADY_CACHE_FP8) {
    data = page + token * STEADY_FP8_DATA_BYTES;
    const uint8_t* scales = page + int64_t{shape.page_tokens} * STEADY_FP8_DATA_BYTES + token * 8;
    for (int d = 0; d < STEADY_NOPE_DIM; ++d)
      values.push_back(scaled_value(data[d], scales[d / 64]));
    data += STEADY_NOPE_DIM;
  }
  for (int i = 0; values.size() < STEADY_HEAD_DIM; ++i)
    values.push_back(bf16_value(static_cast<uint16_t>(data[2 * i] | (data[2 * i + 1] << 8))));
  return values;
}

Answer reference_answer(const steady_shape& shape, const steady_step& step,
                        const steady_layer& layer) {
  const int64_t heads = shape.heads;
  const int64_t queries = shape.queries;
  const int64_t rows = step.batch * queries;
  const steady_strides strides =
      resolved(layer.q_strides, {step.batch, queries, heads}, STEADY_HEAD_DIM);
  const steady_pool_shape& compressed_shape = shape.compressed[layer.kind];
  const steady_lengths& compressed_lengths = step.compressed[layer.kind];
  Scope window(shape.window, layer.window);
  Scope compressed(compressed_shape, layer.compressed);
  Answer answer;
  answer.out.resize(static_cast<size_t>(rows * heads * STEADY_HEAD_DIM));
  answer.lse.resize(static_cast<size_t>(rows * heads));
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t request = row / queries;
    const int64_t query = row % queries;
    Tokens tokens;
    window.append_row(
        row, row_length(step.window, request, query, queries, shape.window.max_tokens), tokens);
    compressed.append_row(
        row, row_length(compressed_lengths, request, query, queries, compressed_shape.max_tokens),
        tokens);
    for (int64_t head = 0; head < heads; ++head) {
      const uint16_t* q =
          layer.q + request * strides.batch + query * strides.query + head * strides.head;
      std::vector<double> values(STEADY_HEAD_DIM);
      std::transform(q, q + STEADY_HEAD_DIM, values.begin(), bf16_value);
      const auto at = static_cast<size_t>(row * heads + head);
      answer.lse[at] = attend(values, tokens, static_cast<double>(shape.softmax_scale),
                              layer.sink == nullptr ? -kInfinity : layer.sink[head],
                              &answer.out[at * STEADY_HEAD_DIM]);
    }
  }
  return answer;
}

}  // namespace steady::test
