#include <algorithm>

#include "forward.hpp"

namespace tritserve {

void Workspace::grow_block(const Model& model) {
  const Settings& s = model.settings;
  const size_t hidden = padded(s.hidden_size), inner_width = padded(s.inner_size);
  const size_t widest = std::max({hidden, inner_width, padded(s.query_size())});
  standardized.grow(kBlockRows * padded(s.input_size()));
  key_value.grow(kBlockRows * padded(s.key_value_size()));
  inner.grow(kBlockRows * inner_width);
  pooled.grow(kBlockRows * hidden);
  row.grow(widest);
  attention.grow(attention_scratch(s.head_dim()));
  if (s.int8_activations) {
    q.grow(kBlockRows * padded(widest, kByteStride));
    q_scale.grow(kBlockRows);
    q_sum.grow(kBlockRows);
    codes.grow(kMaxPanelGroup * padded(widest, kByteStride) * kLanes);
  } else {
    normalized.grow(kBlockRows * widest);
    float_panels.grow(widest * kLanes);
  }
}

void Workspace::grow_chunk(const Model& model, size_t rows, size_t panels, bool team) {
  const Settings& s = model.settings;
  x.grow(rows * padded(s.hidden_size));
  query.grow(rows * padded(s.query_size()));
  attended.grow(rows * padded(s.query_size()));
  sequence_of_row.grow(rows);
  const size_t positions = panels * kLanes * s.key_value_heads;
  for (int i = 0; i < (team ? 2 : 1); ++i) {
    keys[i].grow(positions * s.head_dim());
    values[i].grow(positions * padded(s.head_dim()));
  }
}

}  // namespace tritserve
