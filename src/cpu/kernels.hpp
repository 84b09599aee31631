// SPDX-License-Identifier: Apache-2.0
// The arithmetic of one CPU path: attend for a unit, merge for a head. The oracle and the SIMD path
// each provide these; which worker calls them, and when, is decode.cpp's matter.
#pragma once

#include <cstddef>

#include "core/shape.hpp"
#include "core/work.hpp"
#include "cpu/tokens.hpp"

namespace steady::cpu {

struct Kernels {
  /// What attend needs beside its partial, for one worker.
  size_t (*scratch_bytes)(const Shape&);

  /// Writes the partial of the tokens that `tokens` yields, for all heads of the row.
  void (*attend)(const Shape&, const Layer&, int row, TokenCursor tokens, const Partial&,
                 std::byte* scratch);

  /// left = left followed by right, for one head.
  void (*merge)(const Partial& left, const Partial& right, int head);

  /// Writes out and lse of one head of a row from its complete partial.
  void (*finish)(const Shape&, const Layer&, int row, int head, const Partial&);
};

extern const Kernels kOracleKernels;  // attend.cpp, merge.cpp
extern const Kernels kSimdKernels;    // simd/

}  // namespace steady::cpu
