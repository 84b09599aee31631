/* SPDX-License-Identifier: Apache-2.0
 * From an installed Steady to its version and an engine, in C. */
#include <stdio.h>
#include <steady/device.h>

int main(void) {
  steady_shape shape = {.struct_size = sizeof shape,
                        .heads = 1,
                        .queries = 1,
                        .max_batch = 1,
                        .kinds = 1,
                        .softmax_scale = 1.0f,
                        .window = {STEADY_CACHE_BF16, 1, 1}};
  steady_engine* engine = NULL;
  if (steady_engine_create(&shape, NULL, &engine) != STEADY_OK) {
    fprintf(stderr, "%s\n", steady_last_error());
    return 1;
  }
  printf("Steady %s, workspace of %zu bytes\n", steady_version(), steady_workspace_bytes(engine));
  steady_engine_destroy(engine);
  return 0;
}
