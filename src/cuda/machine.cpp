// SPDX-License-Identifier: Apache-2.0
// The CUDA runtime's answers in, one sentence for each thing that may be missing out.
#include "cuda/machine.hpp"

#include <algorithm>

#include "cuda/error.hpp"

namespace steady::cuda {
namespace {

std::string version(int number) { return join(number / 1000, ".", number % 1000 / 10); }

}  // namespace

Machine ask_machine() {
  Machine machine = {};
  cudaDriverGetVersion(&machine.driver);
  cudaRuntimeGetVersion(&machine.runtime);
  if (machine.driver == 0) return machine;
  int count = 0;
  machine.error = cudaGetDeviceCount(&count);
  for (int device = 0; device < count && machine.error == cudaSuccess; ++device) {
    machine.error = cudaGetDeviceProperties(&machine.cards.emplace_back(), device);
  }
  return machine;
}

bool can_run(const Machine& machine, std::string* detail) {
  if (machine.driver == 0) {
    *detail = "no NVIDIA driver is installed";
    return false;
  }
  // A newer minor version's runtime runs on an older driver of the same major version.
  if (machine.error == cudaErrorInsufficientDriver ||
      machine.driver / 1000 < machine.runtime / 1000) {
    *detail = join("the NVIDIA driver is for CUDA ", version(machine.driver),
                   "; this build needs one for CUDA ", machine.runtime / 1000, ".0 or later");
    return false;
  }
  const std::vector<cudaDeviceProp>& cards = machine.cards;
  if (cards.empty()) {
    const bool counted = machine.error == cudaSuccess;
    *detail =
        join("no CUDA device: ", cudaGetErrorString(counted ? cudaErrorNoDevice : machine.error));
    return false;
  }
  if (machine.error != cudaSuccess) {
    *detail =
        join("device ", cards.size() - 1, " does not answer: ", cudaGetErrorString(machine.error));
    return false;
  }
  const auto usable = std::find_if(cards.begin(), cards.end(), is_new_enough);
  const bool found = usable != cards.end();
  const cudaDeviceProp& card = found ? *usable : cards[0];
  *detail = join(describe(card), ", ", card.multiProcessorCount, " multiprocessors");
  if (has_hopper_kernels(card)) *detail += ", Hopper's own kernels";
  if (cards.size() > 1)
    *detail += join(", device ", found ? usable - cards.begin() : 0, " of ", cards.size());
  if (!found) *detail += "; Steady needs sm_80 or later";
  return found;
}

Status status_of_loading(cudaError_t error, int device, const cudaDeviceProp& card) {
  const Status plain = status_of(error, "loading the attend kernels");
  constexpr const char* kBuild = "build with its number in STEADY_CUDA_ARCHITECTURES";
  const std::string named = join("device ", device, ", ", describe(card));
  switch (error) {
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
      return {STEADY_UNSUPPORTED, join("this build has no code for ", named, "; ", kBuild)};
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorInvalidPtx:
    case cudaErrorJitCompilerNotFound:
      return {STEADY_UNSUPPORTED, join("the NVIDIA driver can't compile this build's code for ",
                                       named, "; update the driver, or ", kBuild)};
    default:
      return plain;
  }
}

std::string describe(const cudaDeviceProp& card) {
  return join(card.name, ", sm_", card.major, card.minor);
}

}  // namespace steady::cuda
