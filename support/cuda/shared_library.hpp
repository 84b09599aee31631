// SPDX-License-Identifier: Apache-2.0
// A library that may be missing in, its functions out: the program must start without it.
#pragma once

#include <dlfcn.h>

#include <initializer_list>

namespace steady::support {

/// Stays loaded until the program ends, as drivers that call back into it expect.
class SharedLibrary {
 public:
  /// The first of `names` that loads.
  SharedLibrary(std::initializer_list<const char*> names) {
    for (const char* name : names) {
      if (handle_ == nullptr) handle_ = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    }
  }

  explicit operator bool() const { return handle_ != nullptr; }

  /// NULL if there is none of that name. `Function` is a function's type: decltype(cuptiFlush).
  template <class Function>
  Function* find(const char* name) const {
    return reinterpret_cast<Function*>(dlsym(handle_, name));
  }

 private:
  void* handle_ = nullptr;
};

}  // namespace steady::support
