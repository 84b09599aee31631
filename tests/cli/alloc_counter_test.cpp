// SPDX-License-Identifier: Apache-2.0
// Allocations of every sort in, their exact count out.
#include "support/alloc_counter.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <new>
#include <thread>

#include "tests/cli/allocating_library.hpp"

namespace steady::test {
namespace {

using support::AllocationCount;
using support::AllocationScope;
using support::CountedThreads;

/// Keeps the compiler from leaving an allocation out.
void* volatile g_kept = nullptr;

AllocationCount count_of(const std::function<void()>& work) {
  const AllocationScope scope;
  work();
  return scope.count();
}

void expect_one_of_each(const std::function<void()>& work) {
  const AllocationCount count = count_of(work);
  EXPECT_EQ(count.allocations, 1);
  EXPECT_EQ(count.frees, 1);
}

TEST(AllocationCounter, CountsNothingWhereNothingIsAllocated) {
  const AllocationCount count = count_of([] { std::free(nullptr); });
  EXPECT_EQ(count.allocations, 0);
  EXPECT_EQ(count.frees, 0);
}

TEST(AllocationCounter, CountsThoseOfTheCaller) {
  const AllocationScope scope(CountedThreads::kCaller);
  g_kept = std::malloc(16);
  EXPECT_EQ(scope.count().allocations, 1);
  EXPECT_EQ(scope.count().frees, 0);
  std::free(g_kept);
  EXPECT_EQ(scope.count().frees, 1);
}

TEST(AllocationCounter, CountsMalloc) {
  expect_one_of_each([] {
    g_kept = std::malloc(1);
    std::free(g_kept);
  });
}

TEST(AllocationCounter, CountsCalloc) {
  expect_one_of_each([] {
    g_kept = std::calloc(3, 5);
    std::free(g_kept);
  });
}

TEST(AllocationCounter, CountsAlignedMemory) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "the thread sanitizer tells nobody of aligned memory before it is freed";
#endif
  expect_one_of_each([] {
    g_kept = std::aligned_alloc(256, 512);
    std::free(g_kept);
  });
  expect_one_of_each([] {
    void* memory = nullptr;
    EXPECT_EQ(posix_memalign(&memory, 256, 100), 0);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory) % 256, 0u);
    g_kept = memory;
    std::free(g_kept);
  });
}

TEST(AllocationCounter, CountsReallocAsBoth) {
  g_kept = std::malloc(8);
  const AllocationCount count = count_of([] { g_kept = std::realloc(g_kept, 1 << 20); });
  EXPECT_EQ(count.allocations, 1);
  EXPECT_EQ(count.frees, 1);
  std::free(g_kept);
}

TEST(AllocationCounter, CountsNewAndDeleteOnce) {
  expect_one_of_each([] {
    g_kept = ::operator new(7);
    ::operator delete(g_kept);
  });
  expect_one_of_each([] {
    g_kept = ::operator new (7, std::align_val_t{128});
    ::operator delete (g_kept, std::align_val_t{128});
  });
}

TEST(AllocationCounter, CountsOnOtherThreadsIfAskedTo) {
  constexpr int kAllocations = 1000;
  enum Phase { kStarting, kReady, kWorking, kDone, kCounted };
  std::atomic<Phase> phase = kStarting;
  const auto wait_for = [&phase](Phase awaited) {
    while (phase != awaited) std::this_thread::yield();
  };
  std::thread thread([&] {
    phase = kReady;
    wait_for(kWorking);
    for (int i = 0; i < kAllocations; ++i) {
      g_kept = std::malloc(16);
      std::free(g_kept);
    }
    phase = kDone;
    wait_for(kCounted);  // the end of a thread frees what its start allocated
  });
  wait_for(kReady);
  const AllocationScope of_caller(CountedThreads::kCaller);
  const AllocationCount count = count_of([&] {
    phase = kWorking;
    wait_for(kDone);
  });
  const AllocationCount count_of_caller = of_caller.count();
  phase = kCounted;
  thread.join();
  EXPECT_EQ(count_of_caller.allocations, 0);
  EXPECT_EQ(count_of_caller.frees, 0);
  EXPECT_EQ(count.allocations, kAllocations);
  EXPECT_EQ(count.frees, kAllocations);
}

TEST(AllocationCounter, CountsInsideASharedLibrary) {
  const AllocationCount count = count_of([] { allocate_in_library(10); });
  EXPECT_EQ(count.allocations, 10);
  EXPECT_EQ(count.frees, 10);
}

TEST(AllocationCounter, CountsNewInsideASharedLibrary) {
  const AllocationCount count = count_of([] { new_in_library(10); });
  EXPECT_EQ(count.allocations, 10);
  EXPECT_EQ(count.frees, 10);
}

}  // namespace
}  // namespace steady::test
