// SPDX-License-Identifier: Apache-2.0
// Makes a device current for a scope, and what the caller had current again after it.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

namespace steady::cuda {

class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    error_ = cudaGetDevice(&before_);
    changed_ = error_ == cudaSuccess && before_ != device;
    if (changed_) error_ = cudaSetDevice(device);
  }
  ~DeviceGuard() {
    if (!changed_) return;
    // Setting a device makes a context on it, hundreds of megabytes. A caller that had none must
    // not get one.
    if (has_context(before_)) {
      cudaSetDevice(before_);
    } else if (const auto set = driver<decltype(cuCtxSetCurrent)>("cuCtxSetCurrent")) {
      set(nullptr);
    }
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

  cudaError_t error() const { return error_; }

 private:
  /// A function of the driver, which is not linked. NULL if it has none of that name.
  template <class Function>
  static Function* driver(const char* name) {
    constexpr unsigned kSince = 12000;
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion(name, &function, kSince, cudaEnableDefault, &found);
    const bool usable = error == cudaSuccess && found == cudaDriverEntryPointSuccess;
    return usable ? reinterpret_cast<Function*>(function) : nullptr;
  }

  static bool has_context(int device) {
    const auto ask = driver<decltype(cuDevicePrimaryCtxGetState)>("cuDevicePrimaryCtxGetState");
    unsigned flags = 0;
    int active = 1;
    if (ask != nullptr) ask(device, &flags, &active);
    return active != 0;
  }

  int before_ = 0;
  bool changed_ = false;
  cudaError_t error_;
};

}  // namespace steady::cuda
