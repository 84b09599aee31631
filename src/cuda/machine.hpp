// SPDX-License-Identifier: Apache-2.0
// What the CUDA runtime tells of a machine in, whether Steady can run there and why not out.
#pragma once

#include <cuda_runtime.h>

#include <string>
#include <vector>

#include "core/status.hpp"

namespace steady::cuda {

/// As the runtime's functions answered.
struct Machine {
  int driver, runtime;  ///< CUDA versions, 1000 × major + 10 × minor; driver 0: there is none
  cudaError_t error;    ///< of counting the devices, then of asking for them
  std::vector<cudaDeviceProp> cards;
};

Machine ask_machine();

/// Whether a device can run the backend. `detail` names the first that can, or says why none can.
bool can_run(const Machine&, std::string* detail);

/// Of asking for the kernels on a device that can run them, if the build has code for it.
Status status_of_loading(cudaError_t, int device, const cudaDeviceProp&);

/// "NVIDIA H100 80GB HBM3, sm_90"
std::string describe(const cudaDeviceProp& card);

/// Whether the kernels of sm90/ are in this build and for this card.
inline bool has_hopper_kernels([[maybe_unused]] const cudaDeviceProp& card) {
#if STEADY_WITH_SM90
  return card.major == 9;
#else
  return false;
#endif
}

/// The oldest architecture that the kernels are written for: bf16 products and cp.async.
inline bool is_new_enough(const cudaDeviceProp& card) { return card.major >= 8; }

}  // namespace steady::cuda
