// SPDX-License-Identifier: Apache-2.0
// A kernel's source, compiled for the host, in; its clusters of blocks run one after the other out,
// a thread of the system for each of theirs. What a kernel asks of the hardware stands in cuda/ptx
// beside this file, as the PTX manual defines it. Slow, but it needs no GPU, and the thread
// sanitizer sees races in shared memory.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "tests/cuda/emulated/earlier_grids.hpp"

// What nvcc and its headers would know.
inline thread_local uint3 threadIdx = {}, blockIdx = {};
inline thread_local dim3 blockDim, gridDim;

namespace steady::emulated {

inline constexpr int kMaxNamedBarriers = 16, kWarpThreads = 32;

/// Waits for a number of threads that each caller names, as bar.sync does.
class NamedBarrier {
 public:
  void arrive_and_wait(int threads) {
    const int phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.fetch_add(1, std::memory_order_acq_rel);
      phase_.notify_all();
    } else {
      phase_.wait(phase, std::memory_order_acquire);
    }
  }

 private:
  std::atomic<int> arrived_ = 0, phase_ = 0;
};

struct Warp {
  static constexpr size_t kValueBytes = 32;
  NamedBarrier barrier;
  alignas(std::max_align_t) std::byte values[kWarpThreads][kValueBytes];
};

struct Block;

/// Blocks that run together.
struct Cluster {
  NamedBarrier barrier;
  std::vector<std::unique_ptr<Block>> blocks;
  std::atomic<int> copies = 0;  // under way from block to block
  std::atomic<bool> fails = false;
};

struct Block {
  static constexpr size_t kAlignment = 1024;
  Block(const cudaLaunchConfig_t& config, unsigned number)
      : rank(static_cast<int>(number)),
        running(static_cast<int>(config.blockDim.x)),
        memory(config.dynamicSmemBytes + kAlignment, 0xff),
        shared(memory.data() + -reinterpret_cast<uintptr_t>(memory.data()) % kAlignment),
        warps(std::make_unique<Warp[]>(config.blockDim.x / kWarpThreads)) {}

  const int rank;            // in its cluster
  std::atomic<int> running;  // of its threads; without any it is gone
  std::vector<uint8_t> memory;
  uint8_t* shared;
  NamedBarrier barriers[kMaxNamedBarriers];
  std::atomic<bool> any[kMaxNamedBarriers] = {};
  std::unique_ptr<Warp[]> warps;
};

inline thread_local Block* block = nullptr;
inline thread_local Cluster* cluster = nullptr;

inline Warp& warp() { return block->warps[threadIdx.x / kWarpThreads]; }
inline int lane() { return static_cast<int>(threadIdx.x % kWarpThreads); }
inline void sync_warp() { warp().barrier.arrive_and_wait(kWarpThreads); }

/// What every lane of the warp gave, for `read` to look at.
template <class T, class Read>
auto exchange(T value, const Read& read) {
  static_assert(sizeof(T) <= Warp::kValueBytes);
  Warp& mine = warp();
  std::memcpy(mine.values[lane()], &value, sizeof(T));
  sync_warp();
  const auto of_lane = [&](int other) {
    T result;
    std::memcpy(&result, mine.values[other], sizeof(T));
    return result;
  };
  const auto result = read(of_lane);
  sync_warp();
  return result;
}

/// Of blocks that run together, in x and y.
inline dim3 cluster_size(const cudaLaunchConfig_t& config) {
  dim3 size = {1, 1, 1};
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    if (config.attrs[i].id == cudaLaunchAttributeClusterDimension)
      size = {config.attrs[i].val.clusterDim.x, config.attrs[i].val.clusterDim.y, 1};
  }
  return size;
}

/// Whether a grid may begin before the ones in front of it have ended.
inline bool begins_early(const cudaLaunchConfig_t& config) {
  return std::any_of(config.attrs, config.attrs + config.numAttrs, [](const auto& attribute) {
    return attribute.id == cudaLaunchAttributeProgrammaticStreamSerialization &&
           attribute.val.programmaticStreamSerializationAllowed != 0;
  });
}

/// Runs `kernel` as a launch of `config` would, cluster after cluster. It fails if a thread does
/// not wait for earlier grids that may still run, or if something is sent to a block that is gone.
template <class... Parameters, class... Arguments>
cudaError_t launch(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                   Arguments&&... arguments) {
  const dim3 in_each = cluster_size(*config);
  const unsigned size = in_each.x * in_each.y;
  for (unsigned y = 0; y < config->gridDim.y; y += in_each.y) {
    for (unsigned first = 0; first < config->gridDim.x; first += in_each.x) {
      Cluster here;
      for (unsigned rank = 0; rank < size; ++rank)
        here.blocks.push_back(std::make_unique<Block>(*config, rank));
      std::vector<std::jthread> threads;
      for (unsigned t = 0; t < config->blockDim.x * size; ++t) {
        threads.emplace_back([&, t] {
          const unsigned rank = t / config->blockDim.x;
          cluster = &here;
          block = here.blocks[rank].get();
          threadIdx = {t % config->blockDim.x, 0, 0};
          blockIdx = {first + rank % in_each.x, y + rank / in_each.x, 0};
          blockDim = config->blockDim;
          gridDim = config->gridDim;
          kernel(arguments...);
          if (begins_early(*config) && !EarlierGrids::this_thread_has_waited) here.fails = true;
          --block->running;
        });
      }
      threads.clear();
      while (here.copies.load(std::memory_order_acquire) != 0) std::this_thread::yield();
      if (here.fails) return cudaErrorLaunchFailure;
    }
  }
  return cudaSuccess;
}

/// Whatever a kernel is to be allowed.
template <class Kernel>
cudaError_t allow(Kernel*, cudaFuncAttribute, int) {
  return cudaSuccess;
}

/// No card, so no room.
template <class Kernel>
cudaError_t count_clusters(int* count, Kernel*, const cudaLaunchConfig_t*) {
  *count = 0;
  return cudaSuccess;
}

}  // namespace steady::emulated

#define __syncthreads() \
  ::steady::emulated::block->barriers[0].arrive_and_wait(static_cast<int>(blockDim.x))
#define __syncwarp ::steady::emulated::sync_warp
#define cudaLaunchKernelEx ::steady::emulated::launch
#define cudaFuncSetAttribute ::steady::emulated::allow
#define cudaOccupancyMaxActiveClusters ::steady::emulated::count_clusters
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__

inline int min(int a, int b) { return std::min(a, b); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }

inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }

inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i)
    result |= static_cast<uint32_t>(bytes >> (8 * (selector >> (4 * i) & 7)) & 0xff) << (8 * i);
  return result;
}

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return steady::emulated::exchange(
      value, [mask](const auto& of_lane) { return of_lane(steady::emulated::lane() ^ mask); });
}

inline unsigned __ballot_sync(unsigned, bool value) {
  return steady::emulated::exchange(value, [](const auto& of_lane) {
    unsigned ballot = 0;
    for (int lane = 0; lane < steady::emulated::kWarpThreads; ++lane)
      ballot |= static_cast<unsigned>(of_lane(lane)) << lane;
    return ballot;
  });
}

template <class T>
T __shfl_sync(unsigned, T value, int from) {
  return steady::emulated::exchange(value, [from](const auto& of_lane) { return of_lane(from); });
}

inline int __reduce_max_sync(unsigned, int value) {
  return steady::emulated::exchange(value, [](const auto& of_lane) {
    int most = of_lane(0);
    for (int lane = 1; lane < steady::emulated::kWarpThreads; ++lane)
      most = std::max(most, of_lane(lane));
    return most;
  });
}

inline bool __all_sync(unsigned mask, bool value) { return __ballot_sync(mask, value) == mask; }

inline bool __any_sync(unsigned, bool value) {
  return steady::emulated::exchange(value, [](const auto& of_lane) {
    bool any = false;
    for (int lane = 0; lane < steady::emulated::kWarpThreads; ++lane) any = any || of_lane(lane);
    return any;
  });
}
