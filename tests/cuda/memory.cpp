// SPDX-License-Identifier: Apache-2.0
// The memory of tests in a build with CUDA: page-locked, for host and device alike, where there is
// a device.
#include "tests/support/memory.hpp"

#include <cuda_runtime.h>

#include <new>

#include "tests/cuda/device.hpp"

namespace steady::test {
namespace {

class PageLocked final : public std::pmr::memory_resource {
  void* do_allocate(size_t bytes, size_t) override {
    void* memory = nullptr;
    if (cudaHostAlloc(&memory, bytes, cudaHostAllocMapped) != cudaSuccess) throw std::bad_alloc();
    return memory;
  }
  void do_deallocate(void* memory, size_t, size_t) override { cudaFreeHost(memory); }
  bool do_is_equal(const memory_resource& other) const noexcept override { return this == &other; }
};

bool has_device() { return why_no_device().empty(); }

std::pmr::memory_resource& choose() {
  if (!has_device()) return *std::pmr::new_delete_resource();
  // Never destroyed: the driver may be gone by then.
  return *new std::pmr::synchronized_pool_resource(new PageLocked);
}

}  // namespace

std::pmr::memory_resource& common_memory() {
  static std::pmr::memory_resource& memory = choose();
  return memory;
}

void share_with_devices(void* memory, size_t bytes) {
  if (has_device() && cudaHostRegister(memory, bytes, cudaHostRegisterMapped) != cudaSuccess) {
    throw std::bad_alloc();
  }
}

void withdraw_from_devices(void* memory) {
  if (has_device()) cudaHostUnregister(memory);
}

}  // namespace steady::test
