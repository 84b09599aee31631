/* SPDX-License-Identifier: Apache-2.0
 * A C99 caller: from the list of backends to a checked, captured and replayed step and back. Ends
 * with 0 if all went as the header says. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "steady/device.h"
#include "steady/steady.h"

enum { HEADS = 2, BATCH = 3, WIDTH = 4, PAGE_TOKENS = 2, PAGES = 3 };

#define EXPECT(condition)                                                                 \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      fprintf(stderr, "%s:%d: not %s (last error: %s)\n", __FILE__, __LINE__, #condition, \
              steady_last_error());                                                       \
      exit(1);                                                                            \
    }                                                                                     \
  } while (0)

typedef struct Device {
  const steady_engine* engine;
  steady_stream stream;
} Device;

static void* allocate(const Device* device, size_t bytes) {
  void* memory = NULL;
  EXPECT(steady_device_alloc(device->engine, bytes, &memory) == STEADY_OK);
  return memory;
}

static void* upload(const Device* device, const void* host, size_t bytes) {
  void* memory = allocate(device, bytes);
  EXPECT(steady_upload(device->engine, memory, host, bytes, device->stream) == STEADY_OK);
  EXPECT(steady_stream_wait(device->engine, device->stream) == STEADY_OK);
  return memory;
}

static void download(const Device* device, void* host, const void* memory, size_t bytes) {
  EXPECT(steady_download(device->engine, host, memory, bytes, device->stream) == STEADY_OK);
  EXPECT(steady_stream_wait(device->engine, device->stream) == STEADY_OK);
}

static float bf16_value(uint16_t bits) {
  const uint32_t wide = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &wide, sizeof(value));
  return value;
}

/* Every token of the pool holds its own slot's number plus one in all dimensions. */
static void* make_pages(const Device* device) {
  const size_t page_bytes = (size_t)steady_page_bytes(STEADY_CACHE_FP8, PAGE_TOKENS);
  uint8_t* pages = (uint8_t*)malloc(PAGES * page_bytes);
  float values[STEADY_HEAD_DIM], back[STEADY_HEAD_DIM];
  for (int slot = 0; slot < PAGES * PAGE_TOKENS; ++slot) {
    uint8_t* page = pages + (size_t)(slot / PAGE_TOKENS) * page_bytes;
    for (int d = 0; d < STEADY_HEAD_DIM; ++d) values[d] = (float)(slot + 1);
    EXPECT(steady_pack_token(STEADY_CACHE_FP8, values, page, PAGE_TOKENS, slot % PAGE_TOKENS) ==
           STEADY_OK);
    EXPECT(steady_unpack_token(STEADY_CACHE_FP8, page, PAGE_TOKENS, slot % PAGE_TOKENS, back) ==
           STEADY_OK);
    EXPECT(memcmp(values, back, sizeof(values)) == 0);
  }
  void* memory = upload(device, pages, PAGES * page_bytes);
  free(pages);
  return memory;
}

static steady_engine* make_engine(steady_backend backend) {
  steady_shape shape;
  memset(&shape, 0, sizeof(shape));
  shape.struct_size = sizeof(shape);
  shape.heads = HEADS;
  shape.queries = 1;
  shape.max_batch = BATCH;
  shape.kinds = 1;
  shape.softmax_scale = 0.044194173F;
  shape.window.format = STEADY_CACHE_FP8;
  shape.window.page_tokens = PAGE_TOKENS;
  shape.window.max_tokens = WIDTH;
  steady_options options;
  memset(&options, 0, sizeof(options));
  options.struct_size = sizeof(options);
  options.backend = backend;
  options.checked = 1;
  steady_engine* engine = NULL;
  shape.heads = 129;
  EXPECT(steady_engine_create(&shape, &options, &engine) == STEADY_INVALID_ARGUMENT);
  EXPECT(engine == NULL && strstr(steady_last_error(), "heads") != NULL);
  shape.heads = HEADS;
  EXPECT(steady_engine_create(&shape, &options, &engine) == STEADY_OK);
  EXPECT(steady_engine_backend(engine) == backend);
  return engine;
}

/* With queries of zero all tokens weigh the same: out is the mean of slot + 1, lse the logarithm of
 * their number. */
static void check(const Device* device, const steady_layer* layer, const float means[BATCH],
                  const int counts[BATCH]) {
  uint16_t out[BATCH * HEADS * STEADY_HEAD_DIM];
  float lse[BATCH * HEADS];
  download(device, out, layer->out, sizeof(out));
  download(device, lse, layer->lse, sizeof(lse));
  for (int i = 0; i < BATCH * HEADS; ++i) {
    const int row = i / HEADS;
    for (int d = 0; d < STEADY_HEAD_DIM; ++d)
      EXPECT(bf16_value(out[i * STEADY_HEAD_DIM + d]) == means[row]);
    EXPECT(counts[row] == 0 ? lse[i] == -INFINITY
                            : fabsf(lse[i] - logf((float)counts[row])) < 1e-6F);
  }
}

static void check_report(const Device* device, steady_workspace workspace, int strays) {
  steady_report report;
  memset(&report, 0, sizeof(report));
  report.struct_size = sizeof(report);
  EXPECT(steady_read_report(device->engine, workspace, device->stream, &report) == STEADY_OK);
  EXPECT(report.stray_slot.count == strays);
  EXPECT(report.negative_length.count == 0 && report.long_length.count == 0);
}

static void run_steps(const Device* device) {
  static const int32_t slots[BATCH * WIDTH] = {0, 1, 2, -1, 5, 99, 3, 0, 4, 4, 4, 4};
  static const int32_t lengths[BATCH] = {4, 3, 0};
  static const int32_t other_lengths[BATCH] = {2, 0, 4};
  static const float means[BATCH] = {2, 5, 0}, other_means[BATCH] = {1.5F, 0, 5};
  static const int counts[BATCH] = {3, 2, 0}, other_counts[BATCH] = {2, 0, 4};
  static const uint16_t queries[BATCH * HEADS * STEADY_HEAD_DIM] = {0};
  steady_workspace workspace;
  workspace.bytes = steady_workspace_bytes(device->engine);
  workspace.data = allocate(device, workspace.bytes);
  int32_t* device_lengths = (int32_t*)upload(device, lengths, sizeof(lengths));
  steady_step step;
  memset(&step, 0, sizeof(step));
  step.struct_size = sizeof(step);
  step.batch = BATCH;
  step.window.values = device_lengths;
  steady_layer layer;
  memset(&layer, 0, sizeof(layer));
  layer.struct_size = sizeof(layer);
  layer.q = (const uint16_t*)upload(device, queries, sizeof(queries));
  layer.out = (uint16_t*)allocate(device, sizeof(queries));
  layer.lse = (float*)allocate(device, BATCH * HEADS * sizeof(float));
  layer.window.pages = make_pages(device);
  layer.window.page_stride_bytes = steady_page_bytes(STEADY_CACHE_FP8, PAGE_TOKENS);
  layer.window.page_count = PAGES;
  layer.window.slots = (const int32_t*)upload(device, slots, sizeof(slots));

  EXPECT(steady_plan(device->engine, workspace, &step, device->stream) == STEADY_OK);
  EXPECT(steady_decode(device->engine, workspace, &step, &layer, device->stream) == STEADY_OK);
  check(device, &layer, means, counts);
  check_report(device, workspace, 1);

  steady_graph* graph = NULL;
  EXPECT(steady_capture_begin(device->engine, device->stream) == STEADY_OK);
  EXPECT(steady_plan(device->engine, workspace, &step, device->stream) == STEADY_OK);
  EXPECT(steady_decode(device->engine, workspace, &step, &layer, device->stream) == STEADY_OK);
  EXPECT(steady_capture_end(device->engine, device->stream, &graph) == STEADY_OK);
  EXPECT(steady_upload(device->engine, device_lengths, other_lengths, sizeof(lengths),
                       device->stream) == STEADY_OK);
  EXPECT(steady_graph_replay(graph, device->stream) == STEADY_OK);
  check(device, &layer, other_means, other_counts);
  check_report(device, workspace, 0);

  steady_graph_destroy(graph);
  const void* const all[] = {
      layer.q,        layer.out,     layer.lse, layer.window.pages, layer.window.slots,
      device_lengths, workspace.data};
  for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); ++i)
    steady_device_free(device->engine, (void*)all[i]);
}

int main(void) {
  EXPECT(strlen(steady_version()) > 0);
  steady_backend_info info;
  memset(&info, 0, sizeof(info));
  info.struct_size = sizeof(info);
  int32_t count = 0;
  for (; steady_describe_backend(count, &info) == STEADY_OK; ++count) {
    if (!info.usable) continue;
    steady_engine* engine = make_engine(info.backend);
    Device device = {engine, NULL};
    EXPECT(steady_stream_create(engine, &device.stream) == STEADY_OK);
    run_steps(&device);
    steady_stream_destroy(engine, device.stream);
    steady_engine_destroy(engine);
  }
  EXPECT(count >= 2);
  return 0;
}
