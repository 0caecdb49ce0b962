#include "forward.hpp"

#include <algorithm>
#include <cstring>

#include "inputs.hpp"
#include "layers.hpp"

namespace tritserve {
namespace {

// Rows this early in a sequence are attended in small tiles: large ones save loads of keys and
// values, but compute more that causality then hides.
constexpr size_t kShortRows = 64;

class Pass : Layers {
 public:
  Pass(const Tools& tools, const Chunk& chunk, const Team& team, Workspace& shared, Workspace& own)
      : Layers(tools, team, team.by_columns ? shared : own, own),
        chunk_(chunk),
        shared_(shared),
        cos_(s_.rope ? tools.rope.cos() : nullptr),
        sin_(s_.rope ? tools.rope.sin() : nullptr) {}

  void run() {
    for_each_block(chunk_.rows, [&](Range rows) { read(rows); });
    const size_t layers = model_.blocks.size();
    for (size_t i = 0; i < layers; ++i) {
      const bool pooled_only = i + 1 == layers && s_.pooling == Pooling::last;
      const Block& block = model_.blocks[i];
      // The next block's keys are written while slower workers still read this block's.
      parity_ = team_.barrier ? i % 2 : 0;
      for_each_block(chunk_.rows, [&](Range rows) { project(block, rows, !pooled_only); });
      meet();
      if (pooled_only) {
        for_each_block(chunk_.count, [&](Range sequences) { finish_last(block, sequences); });
      } else {
        for_each_block(chunk_.rows, [&](Range rows) { finish(block, rows); });
      }
    }
    if (s_.pooling != Pooling::last) pool();
    meet();
  }

 private:
  // This worker's blocks of `count` rows: every `size`-th, so that late rows, which attend to
  // more, are spread evenly.
  template <typename Function>
  void for_each_block(size_t count, Function function) const {
    const size_t size = team_.by_columns ? 1 : team_.size;
    const size_t rank = team_.by_columns ? 0 : team_.rank;
    const size_t blocks = padded((count + kBlockRows - 1) / kBlockRows, size);
    for (size_t i = rank; i < blocks; i += size) {
      const Range rows{count * i / blocks, count * (i + 1) / blocks};
      if (rows.size()) function(rows);
    }
  }

  float* x(size_t row) const { return shared_.x.data() + row * hidden_; }

  void read(Range rows) const {
    const size_t features = s_.input_size(), width = row_stride(features);
    const Range mine = share(rows.size());
    Inputs inputs(s_, own_.averages.data());
    for (size_t r = mine.begin; r < mine.end; ++r) {
      const size_t row = rows.begin + r;
      const Sequence& sequence = sequence_of(row);
      float* out =
          model_.has_input_projection ? block_.standardized.data() + r * width : x(row);
      const float* values = inputs.read(sequence, row - sequence.first_row, out);
      k_.standardize(values, model_.mean.data(), model_.std.data(), features, out);
    }
    meet_by_columns();
    if (model_.has_input_projection)
      linear(model_.input_projection,
             {block_.standardized.data(), width, features, rows.size()}, x(rows.begin), hidden_,
             Epilogue::store);
  }

  const Sequence& sequence_of(size_t row) const {
    return chunk_.sequences[shared_.sequence_of_row.data()[row]];
  }

  void project(const Block& block, Range rows, bool with_queries) const {
    // Others may still read the keys and values of the rows before.
    if (rows.begin) meet_by_columns();
    const Input in = prepare(x(rows.begin), rows.size(), block.attention_norm);
    if (with_queries)
      linear(block.query, in, shared_.query.data() + rows.begin * query_, query_, Epilogue::store);
    const size_t stride = row_stride(s_.key_value_size());
    linear(block.key_value, in, block_.key_value.data(), stride, Epilogue::store);
    for_each_run(rows, [&](const Sequence& sequence, size_t first, size_t count) {
      const size_t row = sequence.first_row + first - rows.begin;
      keep(sequence, first, count, block_.key_value.data() + row * stride, stride);
      return count;
    });
  }

  // Calls function(sequence, first, count) for the rows' parts of each sequence; it returns how
  // many of the `count` rows it took.
  template <typename Function>
  void for_each_run(Range rows, Function function) const {
    for (size_t row = rows.begin; row < rows.end;) {
      const Sequence& sequence = sequence_of(row);
      const size_t first = row - sequence.first_row;
      row += function(sequence, first, std::min(sequence.length - first, rows.end - row));
    }
  }

  void keep(const Sequence& sequence, size_t first, size_t rows, const float* key_value,
            size_t stride) const {
    const size_t dim = s_.head_dim();
    const Range heads = share(s_.key_value_heads);
    for (size_t head = heads.begin; head < heads.end; ++head)
      k_.keep_key_value({key_value + head * dim, key_value + (s_.key_value_heads + head) * dim,
                         stride, first, rows, dim, cos_, sin_},
                        keys(sequence, head), values(sequence, head));
  }

  // First of a sequence's positions, counted over all heads of the chunk.
  size_t first_position(const Sequence& sequence, size_t head) const {
    const size_t panels = padded(sequence.length) / kLanes;
    return (sequence.first_panel * s_.key_value_heads + head * panels) * kLanes;
  }

  float* keys(const Sequence& sequence, size_t head) const {
    return shared_.keys[parity_].data() + first_position(sequence, head) * padded(s_.head_dim());
  }

  float* values(const Sequence& sequence, size_t head) const {
    return shared_.values[parity_].data() + first_position(sequence, head) * padded(s_.head_dim());
  }

  // Rows first .. first + rows - 1 of one sequence; `query` and `out` are at the first of them.
  void attend(const Sequence& sequence, size_t first, size_t rows, const float* query,
              float* out) const {
    const size_t dim = s_.head_dim(), group = s_.num_heads / s_.key_value_heads;
    const Range heads = share(s_.num_heads);
    for (size_t head = heads.begin; head < heads.end; ++head)
      k_.attend({query + head * dim, query_, first, rows, s_.causal ? 0 : sequence.length,
                 s_.attention_window, keys(sequence, head / group), values(sequence, head / group), dim, cos_, sin_,
                 out + head * dim, query_, own_.attention.data()});
  }

  void finish(const Block& block, Range rows) const {
    for_each_run(rows, [&](const Sequence& sequence, size_t first, size_t count) {
      count = std::min(count, s_.causal && first < kShortRows ? kLanes : kTileRows);
      const size_t row = sequence.first_row + first;
      attend(sequence, first, count, shared_.query.data() + row * query_,
             shared_.attended.data() + row * query_);
      return count;
    });
    meet_by_columns();
    feed(block, x(rows.begin), shared_.attended.data() + rows.begin * query_, rows.size());
  }

  // The last block, of the last timestep of each sequence only.
  void finish_last(const Block& block, Range sequences) const {
    const size_t rows = sequences.size();
    float* pooled = block_.pooled.data();
    float* query = shared_.query.data() + sequences.begin * query_;
    float* attended = shared_.attended.data() + sequences.begin * query_;
    const Range mine = share(rows);
    for (size_t r = mine.begin; r < mine.end; ++r) {
      const Sequence& sequence = chunk_.sequences[sequences.begin + r];
      std::memcpy(pooled + r * hidden_, x(sequence.first_row + sequence.length - 1),
                  hidden_ * sizeof(float));
    }
    meet_by_columns();
    linear(block.query, prepare(pooled, rows, block.attention_norm), query, query_,
           Epilogue::store);
    for (size_t r = 0; r < rows; ++r) {
      const Sequence& sequence = chunk_.sequences[sequences.begin + r];
      attend(sequence, sequence.length - 1, 1, query + r * query_, attended + r * query_);
    }
    meet_by_columns();
    feed(block, pooled, attended, rows);
    for (size_t r = mine.begin; r < mine.end; ++r) {
      k_.normalize({pooled + r * hidden_, hidden_, 1, s_.hidden_size}, norm(),
                   model_.final_norm.affine, own_.row.data(), hidden_);
      std::memcpy(chunk_.sequences[sequences.begin + r].embedding, own_.row.data(),
                  s_.hidden_size * sizeof(float));
    }
    meet_by_columns();
  }

  void pool() const {
    for_each_block(chunk_.rows, [&](Range rows) {
      const Range mine = share(rows.size());
      float* mine_x = x(rows.begin + mine.begin);
      k_.normalize({mine_x, hidden_, mine.size(), s_.hidden_size}, norm(),
                   model_.final_norm.affine, mine_x, hidden_);
    });
    meet();
    for (size_t i = team_.rank; i < chunk_.count; i += team_.size) {
      const Sequence& sequence = chunk_.sequences[i];
      k_.mean(x(sequence.first_row), hidden_, sequence.length, s_.hidden_size,
              s_.pooling == Pooling::weighted_mean, sequence.embedding);
      if (s_.pooling == Pooling::mean_max)
        k_.maximum(x(sequence.first_row), hidden_, sequence.length, s_.hidden_size,
                   sequence.embedding + s_.hidden_size);
    }
  }

  const Chunk& chunk_;
  Workspace& shared_;
  const float* const cos_;
  const float* const sin_;
  size_t parity_ = 0;
};

}  // namespace

void forward(const Tools& tools, const Chunk& chunk, const Team& team, Workspace& shared,
             Workspace& own) {
  Pass(tools, chunk, team, shared, own).run();
}

}  // namespace tritserve
