// SPDX-License-Identifier: Apache-2.0
// The memory of tests where no backend has memory of its own: the host's. tests/cuda/memory.cpp
// stands in for this file in a build with CUDA.
#include "tests/support/memory.hpp"

namespace steady::test {

std::pmr::memory_resource& common_memory() { return *std::pmr::new_delete_resource(); }

void share_with_devices(void*, size_t) {}
void withdraw_from_devices(void*) {}

}  // namespace steady::test
