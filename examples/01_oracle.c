/* SPDX-License-Identifier: Apache-2.0
 * Three cached tokens and one query in, the oracle's answer out, beside the one worked out by hand.
 *
 * softmax_scale is ln 2 here, so a token whose score is s weighs e^(s ln 2) = 2^s. The scores are
 * 0, 1 and 2, the weights 1, 2 and 4, and the sink adds e^0 = 1: every answer has 8 below its line.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "steady/device.h"

enum { TOKENS = 3 };

static void check(steady_status status) {
  if (status == STEADY_OK) return;
  fprintf(stderr, "%s: %s\n", steady_status_name(status), steady_last_error());
  exit(1);
}

static int differs(const char* name, double found, double expected) {
  printf("%-8s %9.6f  by hand %9.6f\n", name, found, expected);
  return fabs(found - expected) > 1e-6;
}

int main(void) {
  /* A query that looks at the first value alone. A bf16 vector is packed like a bf16 token. */
  float values[STEADY_HEAD_DIM] = {1};
  uint16_t q[STEADY_HEAD_DIM], out[STEADY_HEAD_DIM];
  check(steady_pack_token(STEADY_CACHE_BF16, values, q, 1, 0));

  /* One FP8 page. On a CPU "device memory" is any memory. */
  uint8_t page[TOKENS * STEADY_FP8_TOKEN_BYTES];
  for (int32_t token = 0; token < TOKENS; ++token) {
    values[0] = (float)token;
    values[1] = 8.0f * (float)(token + 1);
    values[STEADY_HEAD_DIM - 1] = (float)(1 << token);
    check(steady_pack_token(STEADY_CACHE_FP8, values, page, TOKENS, token));
  }
  const int32_t slots[TOKENS] = {0, 1, 2};
  const float sink = 0;
  float lse;

  steady_shape shape = {.struct_size = sizeof shape, .softmax_scale = 0.69314718f};
  shape.heads = shape.queries = shape.max_batch = shape.kinds = 1;
  shape.window.page_tokens = shape.window.max_tokens = TOKENS;
  steady_options options = {.struct_size = sizeof options, .backend = STEADY_ORACLE};
  steady_step step = {.struct_size = sizeof step, .batch = 1};
  steady_layer layer = {.struct_size = sizeof layer, .q = q, .out = out};
  layer.lse = &lse;
  layer.sink = &sink;
  layer.window = (steady_pool){page, sizeof page, 1, slots, 0};

  steady_engine* engine;
  check(steady_engine_create(&shape, &options, &engine));
  steady_workspace workspace = {NULL, steady_workspace_bytes(engine)};
  check(steady_device_alloc(engine, workspace.bytes, &workspace.data));
  check(steady_plan(engine, workspace, &step, NULL));
  check(steady_decode(engine, workspace, &step, &layer, NULL));
  steady_device_free(engine, workspace.data);
  steady_engine_destroy(engine);

  check(steady_unpack_token(STEADY_CACHE_BF16, out, 1, 0, values));
  int wrong = differs("out[0]", values[0], (1 * 0 + 2 * 1 + 4 * 2) / 8.0);
  wrong |= differs("out[1]", values[1], (1 * 8 + 2 * 16 + 4 * 24) / 8.0);
  wrong |= differs("out[511]", values[STEADY_HEAD_DIM - 1], (1 * 1 + 2 * 2 + 4 * 4) / 8.0);
  wrong |= differs("lse", lse, log(1 + 2 + 4));
  return wrong;
}
