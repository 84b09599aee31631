// SPDX-License-Identifier: Apache-2.0
// The registry's rows for the CPU.
#include "cpu/backend.hpp"

#include <hwy/targets.h>

#include "cpu/engine.hpp"
#include "cpu/simd/attend.hpp"

namespace steady::cpu {
namespace {

std::string threads_text() { return join(usable_cores(), " threads"); }

template <const Kernels& kKernels>
Status create(const Shape& shape, const Options& options, std::unique_ptr<Engine>* out) {
  return CpuEngine::create(shape, options, kKernels, out);
}

}  // namespace

const Backend kBackend = {
    STEADY_CPU, "cpu",
    [](std::string* detail) {
      // The vector code's least instruction set is more than a compiler's default.
      if ((hwy::SupportedTargets() & ~(HWY_SCALAR | HWY_EMU128)) == 0) {
        *detail = "the processor has no vector instructions that this build can use";
        return false;
      }
      *detail = join(simd::target_name(), ", ", threads_text());
      return true;
    },
    create<kSimdKernels>};

const Backend kOracleBackend = {STEADY_ORACLE, "oracle",
                                [](std::string* detail) {
                                  *detail = join("scalar, sums in float64, ", threads_text());
                                  return true;
                                },
                                create<kOracleKernels>};

}  // namespace steady::cpu
