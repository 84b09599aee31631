// SPDX-License-Identifier: Apache-2.0
// The number of a step in, reproducible lengths, slots and queries out.
#include "cli/step_inputs.hpp"

#include <algorithm>
#include <climits>

#include "steady/cache_format.h"

namespace steady::cli {
namespace {

using support::RecordedCall;
using support::RecordedScope;

/// splitmix64: the same numbers on every machine, unlike the distributions of <random>.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  uint64_t below(uint64_t end) { return bits() % end; }
  bool one_in(uint64_t n) { return below(n) == 0; }

 private:
  uint64_t state_;
};

/// All full, then all empty, then every request for itself.
int32_t varied_length(int step, int32_t width, Random* random) {
  if (step == 1) return width;
  if (step == 2 || random->one_in(8)) return 0;
  if (random->one_in(4)) return width;
  return static_cast<int32_t>(random->below(width + 1));
}

void vary_row(std::vector<int32_t>* readable, std::span<int32_t> slots, Random* random) {
  for (size_t i = 0; i < slots.size(); ++i) {
    if (readable->empty() || random->one_in(8)) {
      slots[i] = -1;
      continue;
    }
    const size_t drawn = i % readable->size();
    std::swap((*readable)[drawn], (*readable)[drawn + random->below(readable->size() - drawn)]);
    slots[i] = (*readable)[drawn];
  }
}

void vary_scope(const RecordedScope& scope, std::vector<int32_t> readable, int step, Random* random,
                ScopeInputs* inputs) {
  const int32_t width = scope.shape.max_tokens;
  for (int32_t& length : inputs->lengths) length = varied_length(step, width, random);
  for (size_t begin = 0; begin < inputs->slots.size(); begin += width)
    vary_row(&readable, std::span(inputs->slots).subspan(begin, width), random);
}

/// One length below 0 and one above the width, in turn where there is one request, and one stray
/// slot in each row that has any.
void add_faults(const RecordedScope& scope, int queries, int step, Random* random,
                ScopeInputs* inputs) {
  const int32_t width = scope.shape.max_tokens;
  std::vector<int32_t>& lengths = inputs->lengths;
  const size_t request = random->below(lengths.size());
  if (lengths.size() > 1 || step % 2 == 0) lengths[request] = random->one_in(2) ? -1 : INT_MIN;
  if (lengths.size() > 1 || step % 2 == 1)
    lengths[(request + 1) % lengths.size()] = random->one_in(2) ? width + 1 : INT_MAX;

  const int32_t beyond =
      static_cast<int32_t>(std::min<int64_t>(scope.capacity(), INT_MAX));  // may be a token's slot
  const std::array<int32_t, 4> strays = {-2, INT_MIN, beyond, INT_MAX};
  for (size_t row = 0; row < lengths.size() * queries; ++row) {
    const int32_t length = std::clamp(lengths[row / queries], 0, width);
    if (length == 0) continue;
    const int32_t stray = strays[random->below(strays.size())];
    if (stray < 0 || stray >= scope.capacity())
      inputs->slots[row * width + random->below(length)] = stray;
  }
}

/// The heads of the recorded queries, turned by some places, with signs drawn anew.
void vary_queries(const std::vector<uint16_t>& recorded, Random* random, uint16_t* q) {
  const size_t heads = recorded.size() / STEADY_HEAD_DIM;
  const size_t turn = random->below(heads);
  for (size_t head = 0; head < heads; ++head) {
    const uint16_t* from = &recorded[(head + turn) % heads * STEADY_HEAD_DIM];
    for (int begin = 0; begin < STEADY_HEAD_DIM; begin += 64) {
      const uint64_t signs = random->bits();
      for (int i = 0; i < 64; ++i)
        *q++ = static_cast<uint16_t>(from[begin + i] ^ ((signs >> i & 1) << 15));
    }
  }
}

/// What the layers of this step have to do, and what a checked engine will say of it.
void add_up(const RecordedCall& call, StepInputs* inputs) {
  inputs->faults = {};
  inputs->layer_flop = inputs->layer_unique_bytes = 0;
  const auto scopes = call.scopes();
  for (size_t s = 0; s < scopes.size(); ++s) {
    const ScopeInputs& scope = inputs->scopes[s];
    const auto census =
        support::count_slots(*scopes[s], call.shape.queries, scope.slots, scope.lengths);
    inputs->faults.stray_slots += census.stray;
    for (const int32_t length : scope.lengths) {
      inputs->faults.negative_lengths += length < 0;
      inputs->faults.long_lengths += length > scopes[s]->shape.max_tokens;
    }
    // Two products of 512 with each head: the score, and the sum of values.
    inputs->layer_flop +=
        2.0 * 2.0 * STEADY_HEAD_DIM * call.shape.heads * static_cast<double>(census.valid);
    inputs->layer_unique_bytes +=
        static_cast<double>(census.read.size()) *
        static_cast<double>(steady_page_bytes(scopes[s]->shape.format, 1));
  }
}

}  // namespace

StepVariations::StepVariations(const RecordedCall& call, int layers, bool hostile)
    : call_(call), layers_(layers), hostile_(hostile) {
  const auto scopes = call.scopes();
  for (size_t s = 0; s < scopes.size(); ++s) {
    readable_[s] =
        support::count_slots(*scopes[s], call.shape.queries, scopes[s]->slots, scopes[s]->lengths)
            .read;
  }
}

void StepVariations::make(int step, StepInputs* inputs) const {
  Random random(static_cast<uint64_t>(step));
  const auto scopes = call_.scopes();
  for (size_t s = 0; s < scopes.size(); ++s) {
    inputs->scopes[s].slots = scopes[s]->slots;
    inputs->scopes[s].lengths = scopes[s]->lengths;
    if (step == 0) continue;
    vary_scope(*scopes[s], readable_[s], step, &random, &inputs->scopes[s]);
    if (hostile_ && step % 3 == 1)
      add_faults(*scopes[s], call_.shape.queries, step, &random, &inputs->scopes[s]);
  }
  inputs->q.resize(call_.q.size() * layers_);
  for (int layer = 0; layer < layers_; ++layer) {
    uint16_t* q = &inputs->q[layer * call_.q.size()];
    if (step == 0) {
      std::copy(call_.q.begin(), call_.q.end(), q);
    } else {
      vary_queries(call_.q, &random, q);
    }
  }
  add_up(call_, inputs);
}

}  // namespace steady::cli
