// SPDX-License-Identifier: Apache-2.0
// Two answers go in; whether they agree, and where they first do not, comes out.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "tests/support/reference.hpp"

namespace steady::test {

// What the library wrote: bf16 patterns [rows, heads, 512] and floats [rows, heads].
struct Outputs {
  int64_t heads = 0;
  std::vector<uint16_t> out;
  std::vector<float> lse;  // empty if none was asked for
};

// The rows begin … begin + count - 1.
Outputs rows_of(const Outputs& all, int64_t begin, int64_t count);

// Bit for bit. The failure names the first coordinate that differs and both values.
testing::AssertionResult same_bits(const Outputs& got, const Outputs& want);

// The recorded calls of FlashMLA are 1.8e-3 away from the exact answer, of which rounding to bf16
// alone makes 1.7e-3.
constexpr double kOutTolerance = 2.5e-3;
// In a row of few tokens and heads, weights that were rounded to bf16 show more than in a whole
// call.
constexpr double kRowToleranceOfBf16Products = 4e-3;

// How far a single row may be away, from now on: kOutTolerance at first.
void set_row_tolerance(double tolerance);

// ||got - want|| / ||want|| is below kOutTolerance as a whole and below the row tolerance in each
// row, and every lse within 1e-4 (or as near as a float of its size can be). A want that is zero,
// infinite or NaN must be met exactly.
testing::AssertionResult close_to(const Outputs& got, const Answer& want);

// ||got - want|| / ||want||
double relative_error(const uint16_t* got, const double* want, size_t count);

}  // namespace steady::test
