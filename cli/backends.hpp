// SPDX-License-Identifier: Apache-2.0
// The option --backend in, the backend that it names out.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "steady/device.h"

namespace steady::cli {

/// Adds --backend, which takes the names of this build's backends and `auto`, its default.
void add_backend_option(CLI::App& verb, std::string& name);

/// What `name` stands for. Where `auto` finds none that can run, STEADY_AUTO: the library will say
/// why it fails. Throws std::runtime_error with the reason if this machine cannot run it.
steady_backend_info backend_named(const std::string& name);

/// Whether it computes in the memory of the host, when its calls return.
bool is_on_host(steady_backend backend);

}  // namespace steady::cli
