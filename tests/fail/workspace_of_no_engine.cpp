// SPDX-License-Identifier: Apache-2.0
// A workspace belongs to an engine; there is none without.
#include "steady/steady.hpp"

#ifdef MISUSE
steady::Workspace make() { return steady::Workspace(); }
#else
steady::Workspace make(const steady::Engine& engine) { return steady::Workspace(engine); }
#endif
