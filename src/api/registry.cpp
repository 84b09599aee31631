// SPDX-License-Identifier: Apache-2.0
// A backend's number or place in, its row out: the only file that names all backends, and the only
// one that reads the environment.
#include "api/registry.hpp"

#include <cstdlib>
#include <string>
#include <string_view>

#include "cpu/backend.hpp"
#if STEADY_WITH_CUDA
#include "cuda/backend.hpp"
#endif

namespace steady {
namespace {

constexpr const Backend* kBackends[] = {
#if STEADY_WITH_CUDA
    &cuda::kBackend,
#endif
    &cpu::kBackend, &cpu::kOracleBackend};

std::string names() {
  std::string text = "auto";
  for (const Backend* backend : kBackends) text += std::string(", ") + backend->name;
  return text;
}

Status check_usable(const Backend& backend) {
  std::string detail;
  if (backend.probe(&detail)) return {};
  return {STEADY_UNSUPPORTED, join("backend ", backend.name, " cannot run here: ", detail)};
}

}  // namespace

std::span<const Backend* const> backends() { return kBackends; }

Status choose_backend(const Backend** out) {
  const char* forced = std::getenv("STEADY_BACKEND");
  const std::string_view name = forced != nullptr ? forced : "";
  const bool any = name.empty() || name == "auto";
  for (const Backend* backend : kBackends) {
    std::string detail;
    if (any ? backend->probe(&detail) : name == backend->name) {
      *out = backend;
      return any ? Status() : check_usable(*backend);
    }
  }
  if (any) return {STEADY_UNSUPPORTED, "no backend of this build can run here"};
  return invalid("the environment's STEADY_BACKEND is '", name, "'; allowed is ", names());
}

Status find_backend(steady_backend wanted, const Backend** out) {
  if (wanted == STEADY_AUTO) return choose_backend(out);
  for (const Backend* backend : kBackends) {
    if (backend->id == wanted) {
      *out = backend;
      return check_usable(*backend);
    }
  }
  return invalid("backend is ", static_cast<int>(wanted), "; this build has ", names());
}

}  // namespace steady
