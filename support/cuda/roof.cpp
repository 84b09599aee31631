// SPDX-License-Identifier: Apache-2.0
// CUDA device 0 in, the median pass of a large copy and of a large cuBLAS product out.
#include "support/cuda/roof.hpp"

#include <cuda_runtime.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

#include "support/cuda/shared_library.hpp"
#if STEADY_WITH_CUBLAS
#include <cublas_v2.h>
#endif

namespace steady::support {
namespace {

constexpr int kPasses = 21, kWarmUpPasses = 5;
constexpr size_t kMostCopyBytes = size_t{1} << 30;

void check(cudaError_t error) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("measuring the device failed: ") +
                             cudaGetErrorString(error));
  }
}

class Buffer {
 public:
  explicit Buffer(size_t bytes) { check(cudaMalloc(&data_, bytes)); }
  ~Buffer() { cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

class Event {
 public:
  Event() { check(cudaEventCreate(&event_)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

/// Of what `pass` puts on the default stream.
double median_seconds(const std::function<void()>& pass) {
  const Event begin, end;
  std::vector<float> milliseconds;
  for (int i = 0; i < kWarmUpPasses + kPasses; ++i) {
    check(cudaEventRecord(begin.get()));
    pass();
    check(cudaEventRecord(end.get()));
    check(cudaEventSynchronize(end.get()));
    float elapsed = 0;
    check(cudaEventElapsedTime(&elapsed, begin.get(), end.get()));
    if (i >= kWarmUpPasses) milliseconds.push_back(elapsed);
  }
  std::nth_element(milliseconds.begin(), milliseconds.begin() + kPasses / 2, milliseconds.end());
  return milliseconds[kPasses / 2] / 1e3;
}

double measure_copy() {
  // Others may have most of the memory.
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total));
  const size_t bytes = std::min(kMostCopyBytes, free / 8);
  const Buffer from(bytes), to(bytes);
  check(cudaMemset(from.data(), 1, bytes));
  const double seconds = median_seconds(
      [&] { check(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice)); });
  return 2.0 * static_cast<double>(bytes) / seconds / 1e9;
}

#if STEADY_WITH_CUBLAS
/// Random values: a product of zeros draws less power and runs faster than any real one.
void fill_randomly(const Buffer& buffer, size_t count) {
  std::mt19937 random;
  std::vector<uint16_t> values(count);
  for (uint16_t& value : values) {  // of either sign, from 0.5 to 2
    const auto bits = static_cast<uint32_t>(random());
    value = static_cast<uint16_t>((bits & 0x8000u) | (0x3f00u + (bits & 0xffu)));
  }
  check(cudaMemcpy(buffer.data(), values.data(), count * sizeof(uint16_t), cudaMemcpyHostToDevice));
}

/// 0 where there is no cuBLAS.
double measure_product() {
  constexpr int kSize = 8192;
  constexpr size_t kCount = size_t{kSize} * kSize;
  const SharedLibrary library{"libcublas.so.13", "libcublas.so.12", "libcublas.so",
                              STEADY_CUBLAS_PATH};
  if (!library) return 0;
  const auto create = library.find<decltype(cublasCreate_v2)>("cublasCreate_v2");
  const auto destroy = library.find<decltype(cublasDestroy_v2)>("cublasDestroy_v2");
  using Multiply =
      cublasStatus_t(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int,
                     const void*, const void*, cudaDataType, int, const void*, cudaDataType, int,
                     const void*, void*, cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t);
  const auto multiply = library.find<Multiply>("cublasGemmEx");
  cublasHandle_t handle = nullptr;
  if (!create || !destroy || !multiply || create(&handle) != CUBLAS_STATUS_SUCCESS) return 0;
  const std::unique_ptr<cublasContext, decltype(destroy)> owner(handle, destroy);

  const Buffer a(kCount * 2), b(kCount * 2), c(kCount * 2);
  fill_randomly(a, kCount);
  fill_randomly(b, kCount);
  const float one = 1, zero = 0;
  bool done = true;
  const double seconds = median_seconds([&] {
    done &= multiply(handle, CUBLAS_OP_T, CUBLAS_OP_N, kSize, kSize, kSize, &one, a.data(),
                     CUDA_R_16BF, kSize, b.data(), CUDA_R_16BF, kSize, &zero, c.data(), CUDA_R_16BF,
                     kSize, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS;
  });
  return done ? 2.0 * kCount * kSize / seconds / 1e9 : 0;
}
#else
double measure_product() { return 0; }
#endif

}  // namespace

Roof measure_cuda_roof() {
  check(cudaSetDevice(0));
  const double copy = measure_copy(), product = measure_product();
  if (product == 0) {
    return {copy, std::numeric_limits<double>::infinity(),
            "products not measured: cuBLAS was not found"};
  }
  return {copy, product, "bf16 products by cuBLAS"};
}

}  // namespace steady::support
