// SPDX-License-Identifier: Apache-2.0
// The registry's row for NVIDIA GPUs: whether there is one that can run, and which.
#include "cuda/backend.hpp"

#include <cuda_runtime.h>

#include "cuda/engine.hpp"

namespace steady::cuda {
namespace {

bool probe(std::string* detail) {
  int driver = 0, runtime = 0, count = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0) {
    *detail = "no NVIDIA driver is installed";
    return false;
  }
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver) {
    *detail = join("the NVIDIA driver is for CUDA ", driver / 1000, ".", driver % 1000 / 10,
                   "; this build needs one for CUDA ", runtime / 1000, ".0 or later");
    return false;
  }
  if (error != cudaSuccess || count == 0) {
    *detail = join("no CUDA device: ",
                   cudaGetErrorString(error == cudaSuccess ? cudaErrorNoDevice : error));
    return false;
  }
  cudaDeviceProp card = {};
  if (const cudaError_t asked = cudaGetDeviceProperties(&card, 0); asked != cudaSuccess) {
    *detail = join("device 0 does not answer: ", cudaGetErrorString(asked));
    return false;
  }
  *detail = join(card.name, ", sm_", card.major, card.minor, ", ", card.multiProcessorCount,
                 " multiprocessors", count > 1 ? join(", one of ", count, " devices") : "");
  if (card.major >= 8) return true;
  *detail += "; Steady needs sm_80 or later";
  return false;
}

}  // namespace

const Backend kBackend = {STEADY_CUDA, "cuda", probe, CudaEngine::create};

}  // namespace steady::cuda
