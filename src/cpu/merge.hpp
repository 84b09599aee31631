// SPDX-License-Identifier: Apache-2.0
// The oracle's merge: partials of one row in the order of its units in, the answer out.
#pragma once

#include "cpu/kernels.hpp"

namespace steady::cpu {

void merge(const Partial& left, const Partial& right, int head);
void finish(const Shape&, const Layer&, int row, int head, const Partial&);

}  // namespace steady::cpu
