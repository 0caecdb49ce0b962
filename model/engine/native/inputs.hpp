// What a row of the model is made from: `stride` timesteps averaged, their differences beside them.
// To the last bit what model/sequences.py computes: one operation after the other, in time order.
#pragma once

#include <algorithm>

#include "forward.hpp"

namespace tritserve {

// out [embed_dim] = the mean of a row's timesteps; the last row may have fewer.
inline void average(const Settings& s, const Sequence& sequence, size_t row, float* out) {
  const size_t n = s.embed_dim, begin = row * s.stride;
  const size_t end = std::min(begin + s.stride, sequence.timesteps);
  const float* values = sequence.values;
  std::copy(values + begin * n, values + (begin + 1) * n, out);
  for (size_t t = begin + 1; t < end; ++t)
    for (size_t i = 0; i < n; ++i) out[i] += values[t * n + i];
  for (size_t i = 0; i < n; ++i) out[i] /= static_cast<float>(end - begin);
}

// out [input_size] = a row's features followed by their differences, 0 where a sequence starts.
inline void with_differences(const Settings& s, const float* features, size_t row, float* out) {
  const size_t n = s.embed_dim;
  for (size_t i = 0; i < n; ++i) {
    const float* now = features + i;
    const float first = row ? now[0] - *(now - n) : 0.0f;
    out[i] = now[0];
    out[n + i] = first;
    if (s.differences < 2) continue;
    const float before = row > 1 ? *(now - n) - *(now - 2 * n) : 0.0f;
    out[2 * n + i] = row ? first - before : 0.0f;
  }
}

// What rows are made from, one row after the other: what two neighbours need is averaged once.
class Inputs {
 public:
  // `averages` has room for a row's features and, before them, those that its differences need.
  Inputs(const Settings& settings, float* averages) : s_(settings), averages_(averages) {}

  // [input_size]; written to `out` where it is not just a row of the sequence's values.
  const float* read(const Sequence& sequence, size_t row, float* out) {
    const float* found = features(sequence, row);
    if (!s_.differences) return found;
    with_differences(s_, found, row, out);
    return out;
  }

 private:
  const float* features(const Sequence& sequence, size_t row) {
    const size_t n = s_.embed_dim;
    if (s_.stride == 1) return sequence.values + row * n;
    float* now = averages_ + s_.differences * n;
    if (&sequence == sequence_ && row == row_ + 1) {
      std::copy(averages_ + n, now + n, averages_);
    } else {
      for (size_t i = std::min(row, s_.differences); i; --i)
        average(s_, sequence, row - i, now - i * n);
    }
    average(s_, sequence, row, now);
    sequence_ = &sequence;
    row_ = row;
    return now;
  }

  const Settings& s_;
  float* const averages_;
  const Sequence* sequence_ = nullptr;  // of the row read last
  size_t row_ = 0;
};

}  // namespace tritserve
