// Tables of rotary position embeddings (Su et al. 2021, arXiv 2104.09864).
#pragma once

#include <cstdint>
#include <vector>

#include "buffer.hpp"

namespace tritserve {

class Rope {
 public:
  Rope(double theta, size_t half);

  // Tables for at least that many positions, of at most `most`: twice as many as there are, lest
  // lengths that rise one by one make them anew each time.
  void grow(size_t positions, size_t most);

  const float* cos() const { return cos_.data(); }  // [positions, half]
  const float* sin() const { return sin_.data(); }

  // One row of the tables, cos [half] and sin [half], of any position up to 2^48.
  void turn(uint64_t position, float* cos, float* sin) const;

 private:
  const size_t half_;
  std::vector<double> frequencies_;
  size_t positions_ = 0;
  Buffer<float> cos_, sin_;
};

}  // namespace tritserve
