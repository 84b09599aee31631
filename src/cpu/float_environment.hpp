// SPDX-License-Identifier: Apache-2.0
// Gives a scope the default floating-point environment, whatever the calling thread's is.
#pragma once

#include <cfenv>

namespace steady::cpu {

/// A caller may have set its thread to flush subnormals or to round otherwise. Rows must not depend
/// on which thread does them, and e4m3 passes through subnormal floats.
class DefaultFloatEnvironment {
 public:
  DefaultFloatEnvironment() {
    std::fegetenv(&before_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultFloatEnvironment() { std::fesetenv(&before_); }
  DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
  DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;

 private:
  std::fenv_t before_;
};

}  // namespace steady::cpu
