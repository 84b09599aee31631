// SPDX-License-Identifier: Apache-2.0
// The CUDA runtime's answers in, one sentence for each thing that may be missing out.
#include "cuda/machine.hpp"

#include "core/status.hpp"

namespace steady::cuda {
namespace {

std::string version(int number) { return join(number / 1000, ".", number % 1000 / 10); }

}  // namespace

Machine ask_machine() {
  Machine machine = {};
  cudaDriverGetVersion(&machine.driver);
  cudaRuntimeGetVersion(&machine.runtime);
  if (machine.driver == 0) return machine;
  machine.error = cudaGetDeviceCount(&machine.devices);
  if (machine.error == cudaSuccess && machine.devices > 0)
    machine.error = cudaGetDeviceProperties(&machine.card, 0);
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
  if (machine.error != cudaSuccess && machine.devices > 0) {
    *detail = join("device 0 does not answer: ", cudaGetErrorString(machine.error));
    return false;
  }
  if (machine.devices == 0) {
    *detail =
        join("no CUDA device: ",
             cudaGetErrorString(machine.error == cudaSuccess ? cudaErrorNoDevice : machine.error));
    return false;
  }
  *detail = join(describe(machine.card), ", ", machine.card.multiProcessorCount, " multiprocessors",
                 machine.devices > 1 ? join(", one of ", machine.devices, " devices") : "");
  if (is_new_enough(machine.card)) return true;
  *detail += "; Steady needs sm_80 or later";
  return false;
}

std::string describe(const cudaDeviceProp& card) {
  return join(card.name, ", sm_", card.major, card.minor);
}

}  // namespace steady::cuda
