// SPDX-License-Identifier: Apache-2.0
// Fixtures that skip, by name and with the reason, where there is no CUDA device.
#pragma once

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <string>

namespace steady::test {

inline std::string why_no_device() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  return count == 0 ? "no CUDA device" : "";
}

class OnDevice : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = why_no_device(); !reason.empty()) GTEST_SKIP() << reason;
  }
};

/// Page-locked memory, which host and device both touch.
template <class T>
class Common {
 public:
  explicit Common(size_t count) : count_(count) {
    EXPECT_EQ(cudaHostAlloc(&data_, count * sizeof(T), cudaHostAllocMapped), cudaSuccess);
  }
  ~Common() { cudaFreeHost(data_); }
  Common(const Common&) = delete;
  Common& operator=(const Common&) = delete;

  T* get() const { return static_cast<T*>(data_); }
  T& operator[](size_t i) const { return get()[i]; }
  size_t size() const { return count_; }

 private:
  void* data_ = nullptr;
  size_t count_;
};

}  // namespace steady::test
