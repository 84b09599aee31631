// SPDX-License-Identifier: Apache-2.0
// What a CUDA runtime may tell of a machine or of a call goes in; each thing that is missing or
// went wrong has a sentence of its own.
#include "cuda/machine.hpp"

#include <gmock/gmock.h>

#include <cstring>
#include <initializer_list>

#include "cuda/error.hpp"

namespace steady::cuda {
namespace {

using testing::HasSubstr;

Machine hopper() {
  cudaDeviceProp card = {};
  std::strcpy(card.name, "NVIDIA H100");
  card.major = 9;
  card.multiProcessorCount = 132;
  return {13000, 13000, cudaSuccess, {card}};
}

Machine turing() {
  Machine machine = hopper();
  std::strcpy(machine.cards[0].name, "Tesla T4");
  machine.cards[0].major = 7;
  machine.cards[0].minor = 5;
  machine.cards[0].multiProcessorCount = 40;
  return machine;
}

/// How this build names the card of hopper().
std::string hopper_named() {
  std::string named = "NVIDIA H100, sm_90, 132 multiprocessors";
#if STEADY_WITH_SM90
  named += ", Hopper's own kernels";
#endif
  return named;
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
  EXPECT_EQ(detail, hopper_named());
  machine.cards.resize(8, machine.cards[0]);
  EXPECT_TRUE(can_run(machine, &detail));
  EXPECT_EQ(detail, hopper_named() + ", device 0 of 8");
}

TEST(Machine, WithoutADriver) {
  EXPECT_EQ(refusal({0, 13000, cudaSuccess, {}}), "no NVIDIA driver is installed");
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
  EXPECT_EQ(refusal({13000, 13000, cudaErrorNoDevice, {}}),
            "no CUDA device: no CUDA-capable device is detected");
  EXPECT_EQ(refusal({13000, 13000, cudaSuccess, {}}),
            "no CUDA device: no CUDA-capable device is detected");
}

TEST(Machine, WithADeviceThatDoesNotAnswer) {
  Machine machine = hopper();
  machine.error = cudaErrorECCUncorrectable;
  EXPECT_THAT(refusal(machine), HasSubstr("device 0 does not answer: uncorrectable ECC"));
}

TEST(Machine, WithACardThatIsTooOld) {
  EXPECT_EQ(refusal(turing()), "Tesla T4, sm_75, 40 multiprocessors; Steady needs sm_80 or later");
}

TEST(Machine, WithOneGoodCardAmongOthersRuns) {
  Machine machine = turing();
  machine.cards.push_back(hopper().cards[0]);
  std::string detail;
  EXPECT_TRUE(can_run(machine, &detail));
  EXPECT_EQ(detail, hopper_named() + ", device 1 of 2");
}

/// Each of the errors is told so, of device 1.
void expect_unsupported(std::initializer_list<cudaError_t> errors, const char* text) {
  for (const cudaError_t error : errors) {
    const Status status = status_of_loading(error, 1, hopper().cards[0]);
    EXPECT_EQ(status.code(), STEADY_UNSUPPORTED);
    EXPECT_EQ(status.text(), text);
  }
}

TEST(Loading, OnACardThatThisBuildHasNoCodeForSaysWhatToBuildWith) {
  expect_unsupported({cudaErrorNoKernelImageForDevice, cudaErrorInvalidDeviceFunction},
                     "this build has no code for device 1, NVIDIA H100, sm_90; build with its "
                     "number in STEADY_CUDA_ARCHITECTURES");
}

TEST(Loading, ByADriverTooOldForTheBuildsPtxSaysSo) {
  expect_unsupported(
      {cudaErrorUnsupportedPtxVersion, cudaErrorInvalidPtx, cudaErrorJitCompilerNotFound},
      "the NVIDIA driver can't compile this build's code for device 1, NVIDIA H100, sm_90; update "
      "the driver, or build with its number in STEADY_CUDA_ARCHITECTURES");
}

TEST(Loading, ThatFailsOtherwiseIsAnErrorLikeAnyOther) {
  const cudaDeviceProp card = hopper().cards[0];
  EXPECT_EQ(status_of_loading(cudaErrorIllegalAddress, 0, card).code(), STEADY_DEVICE_FAILED);
  EXPECT_EQ(status_of_loading(cudaErrorMemoryAllocation, 0, card).code(), STEADY_OUT_OF_MEMORY);
  EXPECT_EQ(status_of_loading(cudaSuccess, 0, card).code(), STEADY_OK);
}

TEST(Error, OfALaunchNamesIt) {
  const Status status = status_of(cudaErrorInvalidConfiguration, "launch of attend");
  EXPECT_EQ(status.code(), STEADY_INTERNAL);
  EXPECT_THAT(status.text(),
              HasSubstr("launch of attend failed with cudaErrorInvalidConfiguration"));
}

TEST(Error, ThatBrokeTheDeviceIsOfEarlierWork) {
  for (const cudaError_t error :
       {cudaErrorIllegalAddress, cudaErrorLaunchFailure, cudaErrorMisalignedAddress,
        cudaErrorAssert, cudaErrorECCUncorrectable}) {
    const Status status = status_of(error, "launch of plan");
    EXPECT_EQ(status.code(), STEADY_DEVICE_FAILED);
    EXPECT_THAT(status.text(), HasSubstr("before this call"));
    EXPECT_THAT(status.text(), HasSubstr("launch of plan did not happen"));
  }
}

TEST(Error, OfMemoryAndOfACaptureHaveTheirOwnStatus) {
  EXPECT_EQ(status_of(cudaErrorMemoryAllocation, "allocation").code(), STEADY_OUT_OF_MEMORY);
  for (const cudaError_t error : {cudaErrorStreamCaptureUnsupported, cudaErrorStreamCaptureImplicit,
                                  cudaErrorStreamCaptureWrongThread}) {
    const Status status = status_of(error, "copy");
    EXPECT_EQ(status.code(), STEADY_INVALID_ARGUMENT);
    EXPECT_THAT(status.text(), HasSubstr("captured"));
  }
  EXPECT_EQ(status_of(cudaSuccess, "copy").code(), STEADY_OK);
}

}  // namespace
}  // namespace steady::cuda
