// SPDX-License-Identifier: Apache-2.0
// Makes a device current for a scope, and the caller's current again after it.
#pragma once

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
    if (changed_) cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

  cudaError_t error() const { return error_; }

 private:
  int before_ = 0;
  bool changed_ = false;
  cudaError_t error_;
};

}  // namespace steady::cuda
