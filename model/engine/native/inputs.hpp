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

// A row's features. Before them stand those of the rows that its differences need; `averages` has
// room for all of these.
inline const float* features(const Settings& s, const Sequence& sequence, size_t row,
                             float* averages) {
  const size_t n = s.embed_dim;
  if (s.stride == 1) return sequence.values + row * n;
  const size_t before = std::min(row, s.differences);
  for (size_t i = 0; i <= before; ++i)
    average(s, sequence, row - before + i, averages + i * n);
  return averages + before * n;
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

// [input_size]; written to `out` where it is not just a row of the sequence's values.
inline const float* input(const Settings& s, const Sequence& sequence, size_t row, float* averages,
                          float* out) {
  const float* found = features(s, sequence, row, averages);
  if (!s.differences) return found;
  with_differences(s, found, row, out);
  return out;
}

}  // namespace tritserve
