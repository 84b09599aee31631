// SPDX-License-Identifier: Apache-2.0
// src/cuda/ptx/copy.cuh, for the host: a copy is over when it has begun.
#pragma once

#include "tests/cuda/emulated/block.hpp"

namespace steady::cuda::ptx {

inline uint8_t* dynamic_shared() { return emulated::block->shared; }

inline void copy_async_16(void* shared, const void* global) { std::memcpy(shared, global, 16); }
inline void copy_async_8(void* shared, const void* global) { std::memcpy(shared, global, 8); }
inline void copy_async_4(void* shared, const void* global) { std::memcpy(shared, global, 4); }
inline void commit_copies() {}
template <int>
void wait_copies_but() {}
inline void wait_copies() {}

inline void prefetch(const void*) {}

template <class T>
void load(T* to, const void* from) {
  std::memcpy(to, from, sizeof(T));
}
}  // namespace steady::cuda::ptx
