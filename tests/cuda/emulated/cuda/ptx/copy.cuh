// SPDX-License-Identifier: Apache-2.0
// src/cuda/ptx/copy.cuh, for the host: what is copied asynchronously arrives when it is waited for,
// not before, and until then its place holds ones, NaN as bf16 and as float.
#pragma once

#include "tests/cuda/emulated/block.hpp"

namespace steady::cuda::ptx {

inline uint8_t* dynamic_shared() { return emulated::block->shared; }

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};
/// Of this thread: groups that were committed, the oldest first, and the one that was not.
inline thread_local std::deque<std::vector<Copy>> groups;
inline thread_local std::vector<Copy> open_group;

inline void copy_async(void* shared, const void* global, size_t bytes) {
  std::memset(shared, 0xff, bytes);
  open_group.push_back({shared, global, bytes});
}
inline void copy_async_16(void* shared, const void* global) { copy_async(shared, global, 16); }
inline void copy_async_8(void* shared, const void* global) { copy_async(shared, global, 8); }
inline void copy_async_4(void* shared, const void* global) { copy_async(shared, global, 4); }
inline void commit_copies() { groups.push_back(std::exchange(open_group, {})); }
template <int kGroups>
void wait_copies_but() {
  for (; groups.size() > kGroups; groups.pop_front()) {
    for (const Copy& copy : groups.front()) std::memcpy(copy.to, copy.from, copy.bytes);
  }
}
inline void wait_copies() {
  commit_copies();
  wait_copies_but<0>();
}

template <class T>
void load(T* to, const void* from) {
  std::memcpy(to, from, sizeof(T));
}
template <class T>
void load_past_l1(T* to, const void* from) {
  load(to, from);
}
inline void pin(uint4&) {}
inline void touch(uint32_t) {}

}  // namespace steady::cuda::ptx
