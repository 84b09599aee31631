// SPDX-License-Identifier: Apache-2.0
// The backends of this build in, names for the command line out.
#include "cli/backends.hpp"

#include <stdexcept>
#include <vector>

#include "steady/steady.hpp"

namespace steady::cli {

void add_backend_option(CLI::App& verb, std::string& name) {
  std::vector<std::string> names = {"auto"};
  for (const auto& backend : describe_backends()) names.emplace_back(backend.name);
  name = "auto";
  verb.add_option("--backend", name, "What computes")
      ->check(CLI::IsMember(names))
      ->capture_default_str();
}

steady_backend_info backend_named(const std::string& name) {
  for (const auto& backend : describe_backends()) {
    if (name == "auto" ? backend.chosen == 0 : name != backend.name) continue;
    if (backend.usable == 0)
      throw std::runtime_error("backend " + name + " cannot run: " + backend.detail);
    return backend;
  }
  return make<steady_backend_info>();
}

bool is_on_host(steady_backend backend) {
  return backend == STEADY_CPU || backend == STEADY_ORACLE;
}

}  // namespace steady::cli
