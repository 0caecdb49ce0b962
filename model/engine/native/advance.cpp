#include "advance.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "layers.hpp"

namespace tritserve {
namespace {

// As model/engine/value_check.py refuses them.
constexpr double kLargestDeviation = 1e12;

const Team kAlone{nullptr, 0, 1, false};

// A row of the model: whole, or as its first frames leave it.
struct Row {
  Portion* portion;
  uint64_t position;
  bool whole;
  float* out;  // null: its embedding is not asked for
};

class Advance : Layers {
 public:
  Advance(const Tools& tools, Portion* portions, size_t count, Workspace& own)
      : Layers(tools, kAlone, own, own), rope_(tools.rope), portions_(portions), count_(count) {}

  void run() {
    while (take()) {
      if (!rows_) continue;
      for (size_t layer = 0; layer < model_.blocks.size(); ++layer) {
        const Block& block = model_.blocks[layer];
        project(block);
        for (size_t r = 0; r < rows_; ++r) attend(layer, r);
        feed(block, x(0), own_.attended.data(), rows_);
      }
      for (size_t r = 0; r < rows_; ++r) embed(r);
      for (size_t i = 0; i < count_; ++i) portions_[i].stream->forget();
    }
  }

 private:
  float* x(size_t row) const { return own_.x.data() + row * hidden_; }

  // The next rows of all portions, kBlockRows at most; no row attends to one of a later call.
  bool take() {
    bool any = false;
    rows_ = 0;
    for (size_t i = 0; i < count_; ++i) {
      Portion& portion = portions_[i];
      if (!left(portion)) continue;
      if (portion.stream->full()) portion.stream->restart();
      while (left(portion) && rows_ < kBlockRows && !portion.stream->full()) take_frame(portion);
      any = true;
    }
    if (rows_ && model_.has_input_projection)
      linear(model_.input_projection,
             {own_.standardized.data(), row_stride(s_.input_size()), s_.input_size(), rows_}, x(0),
             hidden_, Epilogue::store);
    return any;
  }

  static bool left(const Portion& portion) {
    return portion.taken < portion.timesteps && !portion.refusal.reason;
  }

  void take_frame(Portion& portion) {
    const size_t features = s_.input_size(), frame = portion.taken++;
    float* inputs = own_.averages.data();
    const auto [position, whole] =
        portion.stream->take(portion.frames + frame * s_.embed_dim, inputs);
    if (!check(inputs, frame, portion)) return;
    float* out = nullptr;
    if (portion.every) out = portion.out + frame * s_.output_size();
    else if (frame + 1 == portion.timesteps) out = portion.out;
    if (!whole && !out) return;
    float* standardized = model_.has_input_projection
                              ? own_.standardized.data() + rows_ * row_stride(features)
                              : x(rows_);
    k_.standardize(inputs, model_.mean.data(), model_.std.data(), features, standardized);
    if (s_.rope) rope_.turn(position, turn(rows_), turn(rows_) + s_.head_dim() / 2);
    taken_[rows_++] = {&portion, position, whole, out};
  }

  bool check(const float* inputs, size_t frame, Portion& portion) const {
    const float *mean = model_.mean.data(), *std = model_.std.data();
    for (size_t i = 0; i < s_.input_size(); ++i) {
      const double distance = std::abs(static_cast<double>(inputs[i]) - mean[i]);
      if (distance <= kLargestDeviation * std[i]) continue;
      portion.refusal = {Refusal::value, 0, frame, i % s_.embed_dim};
      return false;
    }
    return true;
  }

  // cos and sin [head_dim / 2] of a row's position.
  float* turn(size_t row) const { return own_.turns.data() + row * s_.head_dim(); }

  void project(const Block& block) const {
    const Input in = prepare(x(0), rows_, block.attention_norm);
    linear(block.query, in, own_.query.data(), query_, Epilogue::store);
    linear(block.key_value, in, own_.key_value.data(), row_stride(s_.key_value_size()),
           Epilogue::store);
  }

  void attend(size_t layer, size_t r) const {
    const Row& row = taken_[r];
    Stream& stream = *row.portion->stream;
    const size_t dim = s_.head_dim(), heads = s_.key_value_heads, group = s_.num_heads / heads;
    const float* cos = s_.rope ? turn(r) : nullptr;
    const float* sin = s_.rope ? cos + dim / 2 : nullptr;
    const float* key = own_.key_value.data() + r * row_stride(s_.key_value_size());
    for (size_t head = 0; head < heads; ++head, key += dim)
      k_.keep_in_page({key, key + heads * dim, row.position % kLanes, dim, cos, sin,
                       own_.attention.data()},
                      stream.page(row.position) + stream.memory().offset(layer, head));
    const uint64_t first = stream.first_seen(row.position);
    const float* query = own_.query.data() + r * query_;
    float* out = own_.attended.data() + r * query_;
    for (size_t head = 0; head < s_.num_heads; ++head)
      k_.attend_pages({query + head * dim, stream.pages(first),
                       stream.memory().offset(layer, head / group), first, row.position, dim, cos,
                       sin, out + head * dim, own_.attention.data()});
  }

  void embed(size_t r) const {
    const Row& row = taken_[r];
    if (s_.pooling == Pooling::last && !row.out) return;
    float* normalized = own_.row.data();
    k_.normalize({x(r), hidden_, 1, s_.hidden_size}, norm(), model_.final_norm.affine, normalized,
                 hidden_);
    if (s_.pooling == Pooling::last)
      std::copy_n(normalized, s_.hidden_size, row.out);
    else
      pool(row, normalized);
    if (row.out && !std::all_of(row.out, row.out + s_.output_size(),
                                [](float number) { return std::isfinite(number); })) {
      Refusal& refusal = row.portion->refusal;
      if (!refusal.reason) refusal.reason = Refusal::overflow;
    }
  }

  // A row that is not whole leaves the stream's sums as they are.
  void pool(const Row& row, const float* normalized) const {
    const size_t width = padded(s_.hidden_size), size = Stream::pool_size(s_);
    float* sums = row.portion->stream->pool();
    if (!row.whole) {
      std::copy_n(sums, size, own_.pooled.data());
      sums = own_.pooled.data();
    }
    const bool rising = s_.pooling == Pooling::weighted_mean;
    const uint64_t rows = row.position + 1;
    const bool ends_part = rows % kPartRows == 0;
    k_.add_to_sums(normalized, s_.hidden_size, rising ? static_cast<float>(rows) : 1.0f, ends_part,
                   sums);
    float* largest = sums + 3 * width;
    if (s_.pooling == Pooling::mean_max)
      for (size_t i = 0; i < s_.hidden_size; ++i)
        largest[i] = rows > 1 && largest[i] > normalized[i] ? largest[i] : normalized[i];
    if (!row.out) return;
    const auto count = static_cast<double>(rows);
    const double weights = rising ? 0.5 * count * (count + 1.0) : count;
    k_.mean_of_sums(sums, s_.hidden_size, !ends_part, static_cast<float>(weights), row.out);
    if (s_.pooling == Pooling::mean_max)
      std::copy_n(largest, s_.hidden_size, row.out + s_.hidden_size);
  }

  const Rope& rope_;
  Portion* const portions_;
  const size_t count_;
  Row taken_[kBlockRows];
  size_t rows_ = 0;
};

}  // namespace

void advance(const Tools& tools, Portion* portions, size_t count, Workspace& own) {
  Advance(tools, portions, count, own).run();
}

}  // namespace tritserve
