// SPDX-License-Identifier: Apache-2.0
// The malloc family in, the same calls to glibc's own and a count out.
#include "support/alloc_counter.hpp"

#include <atomic>
#include <cerrno>
#include <cstddef>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STEADY_SANITIZER_ALLOCATES 1
// Part of every sanitizer with an allocator, though not every compiler ships a header for it.
extern "C" int __sanitizer_install_malloc_and_free_hooks(
    void (*on_malloc)(const volatile void* memory, size_t bytes),
    void (*on_free)(const volatile void* memory));
#else
#define STEADY_SANITIZER_ALLOCATES 0
#endif

namespace steady::support {
namespace {

// Constant-initialised, because malloc runs before any constructor.
constinit std::atomic<int64_t> g_allocations = 0, g_frees = 0;

constinit thread_local AllocationCount t_count;

void note_allocation() {
  g_allocations.fetch_add(1, std::memory_order_relaxed);
  ++t_count.allocations;
}
void note_free() {
  g_frees.fetch_add(1, std::memory_order_relaxed);
  ++t_count.frees;
}

}  // namespace

AllocationCount count_allocations(CountedThreads threads) {
#if STEADY_SANITIZER_ALLOCATES
  [[maybe_unused]] static const int installed = __sanitizer_install_malloc_and_free_hooks(
      [](const volatile void*, size_t) { note_allocation(); },
      [](const volatile void* memory) {
        if (memory != nullptr) note_free();
      });
#endif
  if (threads == CountedThreads::kCaller) return t_count;
  return {g_allocations.load(), g_frees.load()};
}

}  // namespace steady::support

#if !STEADY_SANITIZER_ALLOCATES

using steady::support::note_allocation;
using steady::support::note_free;

// Visible to the dynamic linker, so that shared libraries bind to these as well.
#define STEADY_INTERPOSE extern "C" __attribute__((visibility("default")))

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void* __libc_valloc(size_t);
void* __libc_pvalloc(size_t);
void __libc_free(void*);
}

STEADY_INTERPOSE void* malloc(size_t bytes) noexcept {
  note_allocation();
  return __libc_malloc(bytes);
}

STEADY_INTERPOSE void* calloc(size_t count, size_t bytes) noexcept {
  note_allocation();
  return __libc_calloc(count, bytes);
}

STEADY_INTERPOSE void* realloc(void* memory, size_t bytes) noexcept {
  note_allocation();
  if (memory != nullptr) note_free();
  return __libc_realloc(memory, bytes);
}

STEADY_INTERPOSE void* reallocarray(void* memory, size_t count, size_t bytes) noexcept {
  size_t all = 0;
  if (__builtin_mul_overflow(count, bytes, &all)) {
    errno = ENOMEM;
    return nullptr;
  }
  return realloc(memory, all);
}

STEADY_INTERPOSE void* memalign(size_t alignment, size_t bytes) noexcept {
  note_allocation();
  return __libc_memalign(alignment, bytes);
}

STEADY_INTERPOSE void* aligned_alloc(size_t alignment, size_t bytes) noexcept {
  return memalign(alignment, bytes);
}

STEADY_INTERPOSE int posix_memalign(void** memory, size_t alignment, size_t bytes) noexcept {
  if (alignment < sizeof(void*) || (alignment & (alignment - 1)) != 0) return EINVAL;
  const int kept_errno = errno;
  void* found = memalign(alignment, bytes);
  errno = kept_errno;
  if (found == nullptr) return ENOMEM;
  *memory = found;
  return 0;
}

STEADY_INTERPOSE void* valloc(size_t bytes) noexcept {
  note_allocation();
  return __libc_valloc(bytes);
}

STEADY_INTERPOSE void* pvalloc(size_t bytes) noexcept {
  note_allocation();
  return __libc_pvalloc(bytes);
}

STEADY_INTERPOSE void free(void* memory) noexcept {
  if (memory != nullptr) note_free();
  __libc_free(memory);
}

#endif
