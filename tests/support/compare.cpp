// SPDX-License-Identifier: Apache-2.0
// Two answers go in; whether they agree, and where they first do not, comes out.
#include "tests/support/compare.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

#include "tests/support/values.hpp"

namespace steady::test {
namespace {

double row_tolerance = kOutTolerance;
constexpr size_t kFewValues = 16 * STEADY_HEAD_DIM;  // one unlucky row decides for so few
constexpr double kLseTolerance = 1e-4;

testing::AssertionResult differ(const char* what, size_t idx, int64_t heads, int64_t inner) {
  const auto at = static_cast<int64_t>(idx);
  auto failure = testing::AssertionFailure();
  failure << what << " differs at row " << at / (heads * inner) << ", head " << at / inner % heads;
  if (inner > 1) failure << ", dimension " << at % inner;
  return failure;
}

// What rounding a right answer costs, which few values with unlucky bits can make more than usual.
double rounding_error(const double* want, size_t count) {
  std::vector<uint16_t> rounded(count);
  std::transform(want, want + count, rounded.begin(), nearest_bf16);
  return 1.01 * relative_error(rounded.data(), want, count);
}

bool close_lse(double got, double want) {
  if (std::isnan(want)) return std::isnan(got);
  if (std::isinf(want)) return got == want;
  return std::fabs(got - want) <= std::max(kLseTolerance, 1e-6 * std::fabs(want));
}

}  // namespace

Outputs rows_of(const Outputs& all, int64_t begin, int64_t count) {
  Outputs some;
  some.heads = all.heads;
  const auto out = all.out.begin() + begin * all.heads * STEADY_HEAD_DIM;
  some.out.assign(out, out + count * all.heads * STEADY_HEAD_DIM);
  if (all.lse.empty()) return some;
  const auto lse = all.lse.begin() + begin * all.heads;
  some.lse.assign(lse, lse + count * all.heads);
  return some;
}

testing::AssertionResult same_bits(const Outputs& got, const Outputs& want) {
  if (got.heads != want.heads || got.out.size() != want.out.size() ||
      got.lse.size() != want.lse.size())
    return testing::AssertionFailure() << "the shapes differ";
  for (size_t i = 0; i < want.out.size(); ++i) {
    if (got.out[i] != want.out[i])
      return differ("out", i, want.heads, STEADY_HEAD_DIM)
             << ": " << bf16_value(got.out[i]) << " (bits " << got.out[i] << ") instead of "
             << bf16_value(want.out[i]) << " (bits " << want.out[i] << ")";
  }
  for (size_t i = 0; i < want.lse.size(); ++i) {
    const auto got_bits = std::bit_cast<uint32_t>(got.lse[i]);
    const auto want_bits = std::bit_cast<uint32_t>(want.lse[i]);
    if (got_bits != want_bits)
      return differ("lse", i, want.heads, 1)
             << ": " << got.lse[i] << " (bits " << got_bits << ") instead of " << want.lse[i]
             << " (bits " << want_bits << ")";
  }
  return testing::AssertionSuccess();
}

double relative_error(const uint16_t* got, const double* want, size_t count) {
  double difference = 0;
  double size = 0;
  for (size_t i = 0; i < count; ++i) {
    const double apart = bf16_value(got[i]) - want[i];
    // Below the normal numbers bf16 has fewer bits; rounding there is not counted.
    if (std::fabs(apart) > 0x1.01p-134) difference += apart * apart;
    size += want[i] * want[i];
  }
  return difference == 0 ? 0 : std::sqrt(difference / size);
}

void set_row_tolerance(double tolerance) { row_tolerance = tolerance; }

testing::AssertionResult close_to(const Outputs& got, const Answer& want) {
  if (got.out.size() != want.out.size()) return testing::AssertionFailure() << "the shapes differ";
  const size_t row_size = static_cast<size_t>(got.heads) * STEADY_HEAD_DIM;
  for (size_t i = 0; i < want.out.size(); ++i) {
    const double value = bf16_value(got.out[i]);
    if (std::isfinite(want.out[i]) ? !std::isfinite(value)
                                   : std::isnan(want.out[i]) != std::isnan(value))
      return differ("out", i, got.heads, STEADY_HEAD_DIM)
             << ": " << value << " instead of " << want.out[i];
  }
  for (size_t begin = 0; begin < want.out.size(); begin += row_size) {
    bool finite = true;
    for (size_t i = begin; i < begin + row_size; ++i) finite &= std::isfinite(want.out[i]);
    const double error = relative_error(&got.out[begin], &want.out[begin], row_size);
    const double allowed = std::max(row_tolerance, rounding_error(&want.out[begin], row_size));
    if (finite && !(error < allowed))
      return testing::AssertionFailure()
             << "row " << begin / row_size << " is " << error << " away, allowed is " << allowed;
  }
  const double error = relative_error(got.out.data(), want.out.data(), want.out.size());
  const bool all_finite = std::all_of(want.out.begin(), want.out.end(),
                                      [](double value) { return std::isfinite(value); });
  const double allowed = std::max(kOutTolerance, rounding_error(want.out.data(), want.out.size()));
  if (all_finite && got.out.size() > kFewValues && !(error < allowed))
    return testing::AssertionFailure() << "out is " << error << " away, allowed is " << allowed;
  for (size_t i = 0; i < got.lse.size(); ++i) {
    if (!close_lse(got.lse[i], want.lse[i]))
      return differ("lse", i, got.heads, 1) << ": " << got.lse[i] << " instead of " << want.lse[i];
  }
  return testing::AssertionSuccess();
}

}  // namespace steady::test
