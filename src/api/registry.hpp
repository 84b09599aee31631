// SPDX-License-Identifier: Apache-2.0
// A backend's number or place in, its row out.
#pragma once

#include <span>

#include "core/backend.hpp"

namespace steady {

/// Best first.
std::span<const Backend* const> backends();

/// What STEADY_AUTO stands for here: what the environment's STEADY_BACKEND names, or else the best
/// usable backend.
Status choose_backend(const Backend** out);

/// The row of `wanted`, STEADY_AUTO included, if it can run here.
Status find_backend(steady_backend wanted, const Backend** out);

}  // namespace steady
