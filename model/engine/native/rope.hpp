// Tables of rotary position embeddings (Su et al. 2021, arXiv 2104.09864).
#pragma once

#include "buffer.hpp"

namespace tritserve {

class Rope {
 public:
  Rope(double theta, size_t half) : theta_(theta), half_(half) {}

  // Tables for at least that many positions, of at most `most`: twice as many as there are, lest
  // lengths that rise one by one make them anew each time.
  void grow(size_t positions, size_t most);

  const float* cos() const { return cos_.data(); }  // [positions, half]
  const float* sin() const { return sin_.data(); }

 private:
  const double theta_;
  const size_t half_;
  size_t positions_ = 0;
  Buffer<float> cos_, sin_;
};

}  // namespace tritserve
