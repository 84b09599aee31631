// SPDX-License-Identifier: Apache-2.0
// Copies from block to block that take longer than most, as a test asks for.
#pragma once

#include <atomic>

namespace steady::emulated {

/// While it is true, what a cluster's first block copies to others is not read before all but one
/// of its warpgroups have ended.
inline std::atomic<bool> copies_are_late = false;

}  // namespace steady::emulated
