// SPDX-License-Identifier: Apache-2.0
// The oracle's attend: a row's queries and a unit of cached tokens in, a partial out.
#pragma once

#include "cpu/kernels.hpp"

namespace steady::cpu {

size_t attend_scratch_bytes(const Shape&);
void attend(const Shape&, const Layer&, int row, TokenCursor tokens, const Partial&,
            std::byte* scratch);

}  // namespace steady::cpu
