// SPDX-License-Identifier: Apache-2.0
// A number in, so many calls of malloc or new, and of what gives back, out.
#include "tests/cli/allocating_library.hpp"

#include <cstdlib>
#include <new>

namespace steady::test {
namespace {

void* volatile g_kept = nullptr;

}  // namespace

void allocate_in_library(int times) {
  for (int i = 0; i < times; ++i) {
    g_kept = std::malloc(100);
    std::free(g_kept);
  }
}

void new_in_library(int times) {
  for (int i = 0; i < times; ++i) {
    g_kept = ::operator new(100);
    ::operator delete(g_kept);
  }
}

}  // namespace steady::test
