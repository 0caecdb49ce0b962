#include <algorithm>

#include "forward.hpp"

namespace tritserve {

void Workspace::grow_block(const Model& model) {
  const Settings& s = model.settings;
  const size_t widest = std::max({s.hidden_size, s.inner_size, s.query_size()});
  if (s.stride > 1) averages.grow((1 + s.differences) * s.embed_dim);
  standardized.grow(kBlockRows * row_stride(s.input_size()));
  key_value.grow(kBlockRows * row_stride(s.key_value_size()));
  inner.grow(kBlockRows * row_stride(s.inner_size));
  pooled.grow(kBlockRows * row_stride(s.hidden_size));
  row.grow(kLanes * row_stride(widest));
  attention.grow(attention_scratch(s.head_dim()));
  if (s.int8_activations) {
    q.grow(kBlockRows * byte_stride(widest));
    q_scale.grow(kBlockRows);
    q_sum.grow(kBlockRows);
    codes.grow(kMaxPanelGroup * padded(widest, kByteStride) * kLanes);
  } else {
    normalized.grow(kBlockRows * row_stride(widest));
    float_panels.grow(widest * kLanes);
  }
}

void Workspace::grow_chunk(const Model& model, size_t rows, size_t panels, bool team) {
  const Settings& s = model.settings;
  x.grow(rows * row_stride(s.hidden_size));
  query.grow(rows * row_stride(s.query_size()));
  attended.grow(rows * row_stride(s.query_size()));
  sequence_of_row.grow(rows);
  const size_t positions = panels * kLanes * s.key_value_heads;
  for (int i = 0; i < (team ? 2 : 1); ++i) {
    keys[i].grow(positions * padded(s.head_dim()));
    values[i].grow(positions * padded(s.head_dim()));
  }
}

void Workspace::grow_streams(const Model& model) {
  const Settings& s = model.settings;
  grow_block(model);
  grow_chunk(model, kBlockRows, 0, false);
  averages.grow(s.input_size());
  if (s.rope) turns.grow(kBlockRows * s.head_dim());
}

}  // namespace tritserve
