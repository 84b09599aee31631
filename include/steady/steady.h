/* SPDX-License-Identifier: Apache-2.0
 * Steady: the decode step of DeepSeek-V4's sparse attention. The C interface, and the only ABI.
 * Longer than a header should be, because the whole contract is read in one place.
 *
 * Conventions
 *  1. A call that can fail returns a steady_status. steady_last_error() then holds a sentence,
 * private to the calling thread, that says what was wrong and what is allowed. A failed call
 * changes nothing.
 *  2. Structs begin with struct_size = sizeof(the struct), so that later versions can add fields;
 * zero the rest before you set what you need. Zero or NULL is the default everywhere.
 *  3. "device" memory is what the engine's backend computes on; on a CPU it is any memory. Steady
 * never reads device memory from the host and keeps no pointer beyond the call, a captured graph
 * excepted.
 *  4. Strides count elements unless the name says bytes. bf16 values are uint16_t bit patterns.
 *  5. An engine never changes and may be shared between threads. A workspace belongs to one stream
 * of calls at a time. After set-up no call allocates or waits for the device.
 *  6. [a, b, c] is a shape, slowest dimension first. A "row" is one query token of one request.
 */
#ifndef STEADY_STEADY_H_
#define STEADY_STEADY_H_

#include "steady/cache_format.h"

#if defined(__GNUC__)
#define STEADY_API __attribute__((visibility("default")))
#else
#define STEADY_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum {
  STEADY_MAX_HEADS = 128,
  STEADY_MAX_QUERIES = 8,
  STEADY_MAX_BATCH = 8192,
  STEADY_MAX_TOKENS = 65536, /* width of a scope */
  STEADY_MAX_KINDS = 8
};

typedef enum steady_status STEADY_ANY_INT {
  STEADY_OK = 0,
  STEADY_INVALID_ARGUMENT = 1, /* a value no backend takes */
  STEADY_UNSUPPORTED = 2,      /* not on this backend or machine */
  STEADY_OUT_OF_MEMORY = 3,
  STEADY_NOT_PLANNED = 4,  /* decode found no plan of this engine and batch in the workspace; a
                              device cannot tell the host, see steady_decode() */
  STEADY_INTERNAL = 5,     /* a defect of Steady or of the system below it */
  STEADY_DEVICE_FAILED = 6 /* work that ran on the device before this call broke it */
} steady_status;

typedef enum steady_backend STEADY_ANY_INT {
  STEADY_AUTO = 0, /* the best usable one, or the one that the environment's STEADY_BACKEND names */
  STEADY_CPU = 1,  /* SIMD, several threads */
  STEADY_ORACLE = 2, /* scalar, float64 sums: the specification */
  STEADY_CUDA = 3    /* NVIDIA GPUs, sm_80 and later */
} steady_backend;

typedef struct steady_engine steady_engine;
typedef struct steady_graph steady_graph;
typedef void* steady_stream; /* of the backend; see device.h. NULL: the default stream */

/* One paged store of tokens, as far as it is fixed for an engine. max_tokens 0: there is no such
 * pool. */
typedef struct steady_pool_shape {
  steady_cache_format format;
  int32_t page_tokens; /* tokens a page, >= 1 */
  int32_t max_tokens;  /* width: slots a row, 0 … STEADY_MAX_TOKENS */
} steady_pool_shape;

/* What is fixed for the life of an engine. A kind is a group of layers that select from the same
 * sort of compressed pool: V4-Flash has three (window only, 4:1, 128:1), V4-Pro two. All share the
 * window. */
typedef struct steady_shape {
  size_t struct_size;
  int32_t heads;       /* 1 … STEADY_MAX_HEADS */
  int32_t queries;     /* query tokens a request, 1 … STEADY_MAX_QUERIES */
  int32_t max_batch;   /* requests, 1 … STEADY_MAX_BATCH */
  int32_t kinds;       /* 1 … STEADY_MAX_KINDS */
  float softmax_scale; /* finite; 512^-0.5 in DeepSeek-V4 */
  steady_pool_shape window;
  steady_pool_shape compressed[STEADY_MAX_KINDS];
} steady_shape;

typedef struct steady_options {
  size_t struct_size;
  steady_backend backend;
  int32_t device;  /* ordinal among the backend's devices */
  int32_t threads; /* of a CPU backend; 0: one for each core it may use */
  int32_t checked; /* not 0: count bad lengths and slots for steady_read_report() */
} steady_options;

/* Caller-owned scratch in device memory for one stream of steps: any contents, 256-byte aligned, at
 * least steady_workspace_bytes() long. Serves all kinds and layers, and any number of graphs used
 * in turn. */
typedef struct steady_workspace {
  void* data;
  size_t bytes;
} steady_workspace;

/* How many leading slots of each row count. A value below 0 means 0, one above the width means the
 * width. */
typedef struct steady_lengths {
  const int32_t*
      values; /* device [batch], or [batch, queries] if per_query; NULL: the full width */
  int32_t per_query;
} steady_lengths;

/* One decode iteration of all layers. */
typedef struct steady_step {
  size_t struct_size;
  int32_t batch; /* requests of this step, 1 … max_batch */
  steady_lengths window;
  steady_lengths compressed[STEADY_MAX_KINDS];
} steady_step;

/* slot = page * page_tokens + token. A slot outside 0 … page_count * page_tokens - 1 is skipped; -1
 * is the customary "none". Slots past a row's length and bytes of tokens that no slot names are
 * never read. */
typedef struct steady_pool {
  const void* pages;         /* device; page p begins at pages + p * page_stride_bytes */
  int64_t page_stride_bytes; /* >= steady_page_bytes(); even for STEADY_CACHE_BF16 */
  int64_t page_count;
  const int32_t* slots; /* device [batch, queries, max_tokens] */
  int64_t slots_stride; /* from one row to the next; 0: max_tokens */
} steady_pool;

/* From one request, query, head to the next, the last dimension being contiguous. All 0:
 * contiguous. */
typedef struct steady_strides {
  int64_t batch, query, head;
} steady_strides;

/* One layer's attention. K and V are the same 512 values of a token. Over the union of both pools:
 *   out[d] = sum_j e^(s_j) k_j[d] / (sum_j e^(s_j) + e^sink),  s_j = softmax_scale * (q . k_j)
 *   lse    = ln sum_j e^(s_j), without the sink
 * A row without tokens: out 0, lse -inf or +inf. sink +inf: out 0; sink -inf or NULL: no sink. */
typedef struct steady_layer {
  size_t struct_size;
  int32_t kind;      /* 0 … kinds - 1 */
  const uint16_t* q; /* device bf16 [batch, queries, heads, 512] */
  steady_strides q_strides;
  uint16_t* out; /* device bf16 [batch, queries, heads, 512]; must not overlap any input */
  steady_strides out_strides;
  float* lse; /* device [batch, queries, heads], or NULL */
  steady_strides lse_strides;
  const float* sink;             /* device [heads], or NULL */
  steady_pool window;            /* ignored where the shape has no window */
  steady_pool compressed;        /* ignored where the kind has no compressed pool */
  int32_t empty_lse_is_positive; /* lse of a row without tokens: 0: -inf, the sum over nothing; else
                                    +inf, as FlashMLA has it */
} steady_layer;

STEADY_API const char* steady_version(void);
STEADY_API const char* steady_status_name(steady_status);
/* The text of this thread's last failure, "" before the first. Valid until the thread's next
 * failure. */
STEADY_API const char* steady_last_error(void);

/* options NULL: the defaults. *out is the caller's, NULL after a failure. Destroy takes NULL; no
 * graph or stream of the engine may outlive it. */
STEADY_API steady_status steady_engine_create(const steady_shape*, const steady_options*,
                                              steady_engine** out);
STEADY_API void steady_engine_destroy(steady_engine*);
STEADY_API steady_backend steady_engine_backend(const steady_engine*);
STEADY_API size_t steady_workspace_bytes(const steady_engine*);

/* Reads the step's lengths and writes the work plan of every kind into the workspace: once a step,
 * before its layers, in the same stream (and so in the same graph). */
STEADY_API steady_status steady_plan(const steady_engine*, steady_workspace, const steady_step*,
                                     steady_stream);

/* Computes one layer with the plan in the workspace. step->batch must be the planned one; the
 * lengths are the planned ones, whatever has become of the step's arrays since. Without a plan of
 * this engine and batch in the workspace a CPU backend fails with STEADY_NOT_PLANNED; a device,
 * which is not waited for, writes NaN to out and lse. */
STEADY_API steady_status steady_decode(const steady_engine*, steady_workspace, const steady_step*,
                                       const steady_layer*, steady_stream);

/* Between begin and end, plan and decode calls on `stream` are recorded, not run. A graph keeps the
 * pointers it was given and reads what they hold at each replay. The stream must not be NULL. */
STEADY_API steady_status steady_capture_begin(const steady_engine*, steady_stream);
STEADY_API steady_status steady_capture_end(const steady_engine*, steady_stream,
                                            steady_graph** out);
/* On a CPU a decode that finds no plan fails the replay where it stands: what came before it has
 * run. On a device it writes NaN. */
STEADY_API steady_status steady_graph_replay(const steady_graph*, steady_stream);
STEADY_API void steady_graph_destroy(steady_graph*);

/* What a checked engine met since the last steady_plan in this workspace: how often, and where
 * first (in the order of layers, rows, positions). -1 where a field has no meaning, and in all
 * where count is 0. */
typedef struct steady_fault {
  int64_t count;
  int32_t layer; /* of a slot: how many decode calls came before this one since the plan */
  int32_t kind;  /* of a slot or a compressed length; the window's lengths serve all kinds */
  int32_t scope; /* 0 window, 1 compressed */
  int32_t request;
  int32_t query;    /* of a slot or a length per query */
  int32_t position; /* of a slot: its place in the row's slots */
  int32_t value;    /* the length or slot found */
} steady_fault;

typedef struct steady_report {
  size_t struct_size;
  steady_fault negative_length, long_length;
  steady_fault stray_slot; /* outside the pool and not -1 */
} steady_report;

/* Waits for the stream. Fails with STEADY_INVALID_ARGUMENT if the engine is not checked. */
STEADY_API steady_status steady_read_report(const steady_engine*, steady_workspace, steady_stream,
                                            steady_report* out);

#ifdef __cplusplus
}
#endif
#endif
