// SPDX-License-Identifier: Apache-2.0
// A hostile case goes in; some of its requests as a case of their own, or what became of its
// outputs, come out.
#include <algorithm>
#include <bit>

#include "tests/support/hostile_case.hpp"
#include "tests/support/layout.hpp"

namespace steady::test {
namespace {

constexpr uint16_t kOutSentinel = 0x7FA5;  // a NaN that no arithmetic makes
constexpr uint32_t kLseSentinel = 0x7FA5A5A5;

// The first element that is not the sentinel any more.
template <typename T, typename Bits>
testing::AssertionResult untouched(const char* what, const std::vector<T>& elements,
                                   Bits sentinel) {
  for (size_t i = 0; i < elements.size(); ++i) {
    if (std::bit_cast<Bits>(elements[i]) != sentinel)
      return testing::AssertionFailure() << "element " << i << " of " << elements.size() << " in "
                                         << what << "'s memory has been written";
  }
  return testing::AssertionSuccess();
}

}  // namespace

void HostileCase::reset_outputs() const {
  for (const LayerMemory& memory : memory_) {
    std::fill(memory.out.begin(), memory.out.end(), kOutSentinel);
    std::fill(memory.lse.begin(), memory.lse.end(), std::bit_cast<float>(kLseSentinel));
  }
}

Outputs HostileCase::outputs(size_t layer) const {
  Outputs outputs;
  outputs.heads = spec_.heads;
  const steady_layer& l = layers[layer];
  for_each_vector(extents(), l.out_strides, STEADY_HEAD_DIM, [&](int64_t at) {
    outputs.out.insert(outputs.out.end(), l.out + at, l.out + at + STEADY_HEAD_DIM);
  });
  if (l.lse != nullptr)
    for_each_vector(extents(), l.lse_strides, 1,
                    [&](int64_t at) { outputs.lse.push_back(l.lse[at]); });
  return outputs;
}

Answer HostileCase::answer(size_t layer) const {
  return reference_answer(shape_, step, layers[layer]);
}

testing::AssertionResult HostileCase::gaps_untouched() const { return untouched_but(true); }

testing::AssertionResult HostileCase::outputs_untouched() const { return untouched_but(false); }

testing::AssertionResult HostileCase::untouched_but(bool for_outputs) const {
  for (size_t i = 0; i < layers.size(); ++i) {
    const LayerMemory& memory = memory_[i];
    std::vector<uint16_t> out(memory.out.begin(), memory.out.end());
    std::vector<float> lse(memory.lse.begin(), memory.lse.end());
    if (for_outputs) {
      for_each_vector(extents(), layers[i].out_strides, STEADY_HEAD_DIM, [&](int64_t at) {
        std::fill_n(out.begin() + kMargin + at, STEADY_HEAD_DIM, kOutSentinel);
      });
      if (layers[i].lse != nullptr)
        for_each_vector(extents(), layers[i].lse_strides, 1, [&](int64_t at) {
          lse[static_cast<size_t>(kMargin + at)] = std::bit_cast<float>(kLseSentinel);
        });
    }
    if (auto result = untouched("out", out, kOutSentinel); !result) return result;
    if (auto result = untouched("lse", lse, kLseSentinel); !result) return result;
  }
  return testing::AssertionSuccess();
}

HostileCase HostileCase::pick(const std::vector<int64_t>& requests) const {
  CaseSpec spec = spec_;
  spec.batch = static_cast<int32_t>(requests.size());
  spec.max_batch = std::max(shape_.max_batch, spec.batch);
  HostileCase picked(spec);
  for (size_t i = 0; i < lengths_.size(); ++i) {
    const int64_t each = lengths_[i].size() / spec_.batch;
    for (int64_t to = 0; to < spec.batch * each; ++to) {
      const int64_t from = requests[static_cast<size_t>(to / each)];
      picked.lengths_[i][to] = from < 0 ? 0 : lengths_[i][from * each + to % each];
    }
  }
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    picked.layers[layer].sink = layers[layer].sink;
    picked.take_pool(*this, layer, 0, requests);
    picked.take_pool(*this, layer, 1, requests);
    picked.take_queries(*this, layer, requests);
  }
  return picked;
}

void HostileCase::take_pool(const HostileCase& from, size_t layer, int scope,
                            const std::vector<int64_t>& requests) {
  steady_pool& pool = scope == 0 ? layers[layer].window : layers[layer].compressed;
  const steady_pool& other = scope == 0 ? from.layers[layer].window : from.layers[layer].compressed;
  const int64_t width = scope_spec(layer, scope).width;
  if (width == 0) return;
  pool.pages = other.pages;
  pool.page_stride_bytes = other.page_stride_bytes;
  pool.page_count = other.page_count;
  const int64_t stride = std::max(pool.slots_stride, width);
  const int64_t other_stride = std::max(other.slots_stride, width);
  for (int64_t row = 0; row < rows(); ++row) {
    const int64_t request = requests[static_cast<size_t>(row / spec_.queries)];
    if (request < 0) continue;
    const int64_t other_row = request * spec_.queries + row % spec_.queries;
    std::copy_n(other.slots + other_row * other_stride, width, slots(layer, scope) + row * stride);
  }
}

void HostileCase::take_queries(const HostileCase& from, size_t layer,
                               const std::vector<int64_t>& requests) {
  const steady_strides ours = resolved(layers[layer].q_strides, extents(), STEADY_HEAD_DIM);
  const steady_strides theirs =
      resolved(from.layers[layer].q_strides, from.extents(), STEADY_HEAD_DIM);
  for (int64_t b = 0; b < spec_.batch; ++b) {
    const int64_t request = requests[static_cast<size_t>(b)];
    for (int64_t query = 0; query < spec_.queries; ++query) {
      for (int64_t head = 0; head < spec_.heads; ++head) {
        uint16_t* to = q(layer) + b * ours.batch + query * ours.query + head * ours.head;
        const uint16_t* origin =
            from.q(layer) + request * theirs.batch + query * theirs.query + head * theirs.head;
        if (request < 0)
          std::fill_n(to, STEADY_HEAD_DIM, kPoisonedQuery);
        else
          std::copy_n(origin, STEADY_HEAD_DIM, to);
      }
    }
  }
}

}  // namespace steady::test
