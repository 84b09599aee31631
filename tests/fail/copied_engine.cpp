// SPDX-License-Identifier: Apache-2.0
// An engine has one owner: it moves, and is never copied.
#include <utility>

#include "steady/steady.hpp"

steady::Engine hand_over(steady::Engine& engine) {
#ifdef MISUSE
  return engine;
#else
  return std::move(engine);
#endif
}
