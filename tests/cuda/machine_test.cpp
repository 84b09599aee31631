// SPDX-License-Identifier: Apache-2.0
// What a CUDA runtime may tell of a machine goes in; each thing that is missing has a sentence of
// its own.
#include "cuda/machine.hpp"

#include <gmock/gmock.h>

#include <cstring>

namespace steady::cuda {
namespace {

using testing::HasSubstr;

Machine hopper() {
  Machine machine = {13000, 13000, cudaSuccess, 1, {}};
  std::strcpy(machine.card.name, "NVIDIA H100");
  machine.card.major = 9;
  machine.card.multiProcessorCount = 132;
  return machine;
}

std::string refusal(const Machine& machine) {
  std::string detail;
  EXPECT_FALSE(can_run(machine, &detail));
  return detail;
}

TEST(Machine, WithACardRunsAndIsNamed) {
  Machine machine = hopper();
  std::string detail;
  EXPECT_TRUE(can_run(machine, &detail));
  EXPECT_EQ(detail, "NVIDIA H100, sm_90, 132 multiprocessors");
  machine.devices = 8;
  EXPECT_TRUE(can_run(machine, &detail));
  EXPECT_THAT(detail, HasSubstr("one of 8 devices"));
}

TEST(Machine, WithoutADriver) {
  EXPECT_EQ(refusal({0, 13000, cudaSuccess, 0, {}}), "no NVIDIA driver is installed");
}

TEST(Machine, WithADriverThatIsTooOld) {
  Machine machine = hopper();
  machine.driver = 12040;
  for (const cudaError_t error : {cudaErrorInsufficientDriver, cudaSuccess}) {
    machine.error = error;
    EXPECT_EQ(refusal(machine),
              "the NVIDIA driver is for CUDA 12.4; this build needs one for CUDA 13.0 or later");
  }
}

TEST(Machine, WithADriverOfAnOlderMinorVersionRuns) {
  Machine machine = hopper();
  machine.runtime = 13010;
  std::string detail;
  EXPECT_TRUE(can_run(machine, &detail));
}

TEST(Machine, WithoutADevice) {
  EXPECT_EQ(refusal({13000, 13000, cudaErrorNoDevice, 0, {}}),
            "no CUDA device: no CUDA-capable device is detected");
  EXPECT_EQ(refusal({13000, 13000, cudaSuccess, 0, {}}),
            "no CUDA device: no CUDA-capable device is detected");
}

TEST(Machine, WithADeviceThatDoesNotAnswer) {
  Machine machine = hopper();
  machine.error = cudaErrorECCUncorrectable;
  EXPECT_THAT(refusal(machine), HasSubstr("device 0 does not answer: uncorrectable ECC"));
}

TEST(Machine, WithACardThatIsTooOld) {
  Machine machine = hopper();
  machine.card.major = 7;
  machine.card.minor = 5;
  EXPECT_EQ(refusal(machine),
            "NVIDIA H100, sm_75, 132 multiprocessors; Steady needs sm_80 or later");
}

}  // namespace
}  // namespace steady::cuda
