// SPDX-License-Identifier: Apache-2.0
// From an installed Steady to its version and an engine's workspace, in C++.
#include <cstdio>
#include <exception>
#include <steady/steady.hpp>

int main() {
  auto shape = steady::make<steady_shape>();
  shape.heads = shape.queries = shape.max_batch = shape.kinds = 1;
  shape.softmax_scale = 1.0f;
  shape.window = {STEADY_CACHE_BF16, 1, 1};
  try {
    const steady::Engine engine(shape);
    const steady::Workspace workspace(engine);
    std::printf("Steady %s, workspace of %zu bytes\n", steady_version(), engine.workspace_bytes());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
