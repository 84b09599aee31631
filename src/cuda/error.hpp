// SPDX-License-Identifier: Apache-2.0
// A CUDA error in, a Status out that does not blame this call for what was broken before it.
#pragma once

#include <cuda_runtime.h>

#include "core/status.hpp"

namespace steady::cuda {

/// Errors that leave the context unusable and come from work that ran earlier.
inline bool is_sticky(cudaError_t error) {
  switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
#if CUDART_VERSION >= 13000
    case cudaErrorContained:
    case cudaErrorTensorMemoryLeak:
#endif
      return true;
    default:
      return false;
  }
}

/// What a capture cannot hold, or what another stream's capture forbids meanwhile.
inline bool is_of_capture(cudaError_t error) {
  return error >= cudaErrorStreamCaptureUnsupported && error <= cudaErrorStreamCaptureWrongThread;
}

/// `what` names what was tried: "launch of attend".
inline Status status_of(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return {};
  const std::string text = join(cudaGetErrorName(error), ": ", cudaGetErrorString(error));
  if (is_sticky(error)) {
    return {STEADY_DEVICE_FAILED,
            join("the device had failed before this call, in work that ran earlier (", text, "); ",
                 what, " did not happen")};
  }
  cudaGetLastError();  // or whoever looks next would take our error for theirs
  if (error == cudaErrorMemoryAllocation)
    return {STEADY_OUT_OF_MEMORY, join(what, " failed with ", text)};
  if (is_of_capture(error)) {
    return invalid(what, " is not allowed while a stream is being captured (", text,
                   "); use a stream of your own, and only plan and decode in the one captured");
  }
  return {STEADY_INTERNAL, join(what, " failed with ", text)};
}

/// Whether the stream is being captured, asked without disturbing the capture.
inline Status capturing(cudaStream_t stream, bool* out) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  STEADY_RETURN_IF_ERROR(
      status_of(cudaStreamIsCapturing(stream, &status), "asking for the capture"));
  *out = status != cudaStreamCaptureStatusNone;
  return {};
}

}  // namespace steady::cuda
