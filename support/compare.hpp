// SPDX-License-Identifier: Apache-2.0
// Two answers in, how far they are apart out.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

namespace steady::support {

inline float to_float(float value) { return value; }
inline float to_float(uint16_t bf16) { return std::bit_cast<float>(uint32_t{bf16} << 16); }

/// ‖a − b‖ / ‖b‖ in float64. 0 where both are zero; infinite where b alone is zero or a value is
/// not finite.
template <class A, class B>
double relative_error(std::span<const A> a, std::span<const B> b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double x = to_float(a[i]), y = to_float(b[i]);
    difference += (x - y) * (x - y);
    norm += y * y;
  }
  if (difference == 0) return 0;
  const double error = std::sqrt(difference / norm);
  return std::isfinite(error) ? error : std::numeric_limits<double>::infinity();
}

/// The largest |a − b|, equal infinities being no difference; infinite where just one is infinite
/// or one is NaN.
inline double lse_error(std::span<const float> a, std::span<const float> b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i]) continue;
    const double difference = std::fabs(static_cast<double>(a[i]) - b[i]);
    if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, difference);
  }
  return worst;
}

}  // namespace steady::support
