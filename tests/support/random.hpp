// SPDX-License-Identifier: Apache-2.0
// A seed goes in, the same numbers on every machine come out.
#pragma once

#include <cstdint>

namespace steady::test {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  // splitmix64 (Steele, Lea, Flood 2014): any seed is a good one.
  uint64_t next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15U;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
  }

  // 0 … bound - 1
  int64_t below(int64_t bound) {
    return static_cast<int64_t>(next() % static_cast<uint64_t>(bound));
  }

  bool percent(int chance) { return below(100) < chance; }

  // 0 <= x < 1
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

  // Close to a normal distribution of variance 1, within -6 … 6.
  double normal() {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }

 private:
  uint64_t state_;
};

}  // namespace steady::test
