// SPDX-License-Identifier: Apache-2.0
// A number in, so many allocations and frees inside a shared library out.
#pragma once

namespace steady::test {

__attribute__((visibility("default"))) void allocate_in_library(int times);
__attribute__((visibility("default"))) void new_in_library(int times);

}  // namespace steady::test
