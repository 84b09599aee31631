// SPDX-License-Identifier: Apache-2.0
// A positive number in, quotients by it out, with one product instead of a division.
#pragma once

#include <cstdint>

#include "numeric/host_device.hpp"

namespace steady::cuda {

/// Granlund and Montgomery, "Division by invariant integers using multiplication" (PLDI 1994),
/// theorem 4.2, for numerators of 31 bits.
class Divisor {
 public:
  Divisor() : Divisor(1) {}
  explicit Divisor(int32_t number) : number_(number) {
    while ((int64_t{1} << (shift_ - 31)) < number) ++shift_;
    multiplier_ = static_cast<uint32_t>(((uint64_t{1} << shift_) + number - 1) / number);
  }

  STEADY_HOST_DEVICE int32_t number() const { return number_; }
  /// `value` / number; `value` is not negative.
  STEADY_HOST_DEVICE int32_t divide(int32_t value) const {
    return static_cast<int32_t>(uint64_t{static_cast<uint32_t>(value)} * multiplier_ >> shift_);
  }

 private:
  int32_t number_;
  uint32_t multiplier_, shift_ = 31;
};

}  // namespace steady::cuda
