// SPDX-License-Identifier: Apache-2.0
// STEADY_HOST_DEVICE marks a pure function that CPUs and GPUs both compile.
#pragma once

#if defined(__CUDACC__) || defined(__HIPCC__)
#define STEADY_HOST_DEVICE __host__ __device__
#else
#define STEADY_HOST_DEVICE
#endif
