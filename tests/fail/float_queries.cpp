// SPDX-License-Identifier: Apache-2.0
// Queries are bf16 bit patterns; floats are refused by the type.
#include "steady/steady.hpp"

#ifdef MISUSE
using Query = float;
#else
using Query = uint16_t;
#endif

void give(steady_layer& layer, const Query* queries) { layer.q = queries; }
