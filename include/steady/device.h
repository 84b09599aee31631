/* SPDX-License-Identifier: Apache-2.0
 * Backends, their memory and their streams, for callers without a device library of their own.
 * The conventions are those of steady.h. */
#ifndef STEADY_DEVICE_H_
#define STEADY_DEVICE_H_

#include "steady/steady.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct steady_backend_info {
  size_t struct_size;
  steady_backend backend;
  int32_t usable;   /* 0: `detail` says why not */
  int32_t chosen;   /* not 0: STEADY_AUTO would take this one */
  char name[16];    /* what STEADY_BACKEND and --backend call it */
  char detail[240]; /* device, instruction set, threads */
} steady_backend_info;

/* How many backends this build has. */
STEADY_API int32_t steady_backend_count(void);

/* Describes backend number `index` of this build, best first. STEADY_INVALID_ARGUMENT past the
 * last. */
STEADY_API steady_status steady_describe_backend(int32_t index, steady_backend_info* out);

/* Device memory, 256-byte aligned. Free takes NULL. */
STEADY_API steady_status steady_device_alloc(const steady_engine*, size_t bytes, void** out);
STEADY_API void steady_device_free(const steady_engine*, void*);

/* Copies in stream order. `device` is device memory, `host` is host memory that must stay valid
 * until the stream has passed the copy. */
STEADY_API steady_status steady_upload(const steady_engine*, void* device, const void* host,
                                       size_t bytes, steady_stream);
STEADY_API steady_status steady_download(const steady_engine*, void* host, const void* device,
                                         size_t bytes, steady_stream);

/* A stream of the engine's device. On a CPU calls run at once, on the calling thread and the
 * engine's own threads; a stream there serves to capture. Destroy takes NULL. */
STEADY_API steady_status steady_stream_create(const steady_engine*, steady_stream* out);
STEADY_API void steady_stream_destroy(const steady_engine*, steady_stream);
STEADY_API steady_status steady_stream_wait(const steady_engine*, steady_stream);

/* Writes 512 values (host memory), rounded to bf16 first, as token `token` of a page (host memory)
 * of `page_tokens` tokens, and reads them back as the attention sees them. FP8 scales follow
 * DeepSeek-V4: for each 64 values 2^ceil(log2(max(|v|, 1e-4) / 448)); see docs/cache-format.md. */
STEADY_API steady_status steady_pack_token(steady_cache_format, const float* values, void* page,
                                           int32_t page_tokens, int32_t token);
STEADY_API steady_status steady_unpack_token(steady_cache_format, const void* page,
                                             int32_t page_tokens, int32_t token, float* values);

#ifdef __cplusplus
}
#endif
#endif
