// Rounding and subnormals as the answer's bytes need them, whatever the calling thread has set.
#pragma once

#include <cfenv>

namespace tritserve {

class DefaultFloats {
 public:
  DefaultFloats() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultFloats() { std::fesetenv(&saved_); }

 private:
  std::fenv_t saved_;
};

}  // namespace tritserve
