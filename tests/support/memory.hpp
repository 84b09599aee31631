// SPDX-License-Identifier: Apache-2.0
// Memory that the host and every backend under test can touch: plain where there is no GPU,
// page-locked where there is one.
#pragma once

#include <cstddef>
#include <memory_resource>

namespace steady::test {

std::pmr::memory_resource& common_memory();

// Lets devices, if there are any, touch host memory that came from elsewhere, until it is
// withdrawn.
void share_with_devices(void* memory, size_t bytes);
void withdraw_from_devices(void* memory);

}  // namespace steady::test
