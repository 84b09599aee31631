// SPDX-License-Identifier: Apache-2.0
// The oracle's attend: a row's queries and a unit of cached tokens in, a partial out. Sums in
// double, one token after the other, as the definition reads.
#include "cpu/attend.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/dequantise.hpp"
#include "numeric/bf16.hpp"

namespace steady::cpu {
namespace {

/// SoftmaxState with its output, in double.
struct ExactState {
  double max, sum, out[kHeadDim];

  void clear() {
    max = -std::numeric_limits<double>::infinity();
    sum = 0;
    std::fill_n(out, kHeadDim, 0.0);
  }

  void add(double score, const float value[kHeadDim]) {
    const double new_max = std::max(max, score);
    const double old_weight = sum == 0 ? 0 : std::exp(max - new_max);
    const double weight = std::exp(score - new_max);
    max = new_max;
    sum = sum * old_weight + weight;
    for (int d = 0; d < kHeadDim; ++d) out[d] = out[d] * old_weight + weight * value[d];
  }
};

double dot(const uint16_t* q, const float k[kHeadDim]) {
  double sum = 0;
  for (int d = 0; d < kHeadDim; ++d) sum += static_cast<double>(float_from_bf16(q[d])) * k[d];
  return sum;
}

}  // namespace

size_t attend_scratch_bytes(const Shape& shape) { return sizeof(ExactState) * shape.heads; }

void attend(const Shape& shape, const Layer& layer, int row, TokenCursor tokens,
            const Partial& partial, std::byte* scratch) {
  auto* states = reinterpret_cast<ExactState*>(scratch);
  std::for_each_n(states, shape.heads, [](ExactState& state) { state.clear(); });

  Token token;
  float value[kHeadDim];
  while (tokens.next(&token)) {
    dequantise(token, value);
    for (int head = 0; head < shape.heads; ++head) {
      const double score = dot(query_vector(shape, layer, row, head), value) * shape.softmax_scale;
      states[head].add(score, value);
    }
  }

  for (int head = 0; head < shape.heads; ++head) {
    const ExactState& state = states[head];
    // The partial keeps the maximum in float; its sums are relative to the one it keeps. From 2^24
    // on that is further away than any sum's logarithm tells.
    const auto max = static_cast<float>(state.max);
    const double away = state.max - max;
    const double weight = state.sum == 0 ? 0 : std::fabs(away) <= 1 ? std::exp(away) : 1;
    partial.states[head] = {max, static_cast<float>(state.sum * weight)};
    std::transform(state.out, state.out + kHeadDim, partial.out + head * kHeadDim,
                   [&](double sum) { return static_cast<float>(sum * weight); });
  }
}

}  // namespace steady::cpu
