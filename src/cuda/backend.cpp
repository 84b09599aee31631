// SPDX-License-Identifier: Apache-2.0
// The registry's row for NVIDIA GPUs.
#include "cuda/backend.hpp"

#include "cuda/engine.hpp"
#include "cuda/machine.hpp"

namespace steady::cuda {
namespace {

bool probe(std::string* detail) { return can_run(ask_machine(), detail); }

}  // namespace

const Backend kBackend = {STEADY_CUDA, "cuda", probe, CudaEngine::create};

}  // namespace steady::cuda
