// Batches of series whose channels are seen one by one.
#include <algorithm>

#include "encoder.hpp"

namespace tritserve {
namespace {

constexpr size_t kGroupWindows = 256;  // computed together

// A series' row: that of its one window, or the mean of its windows' mean and of the whole.
void average_windows(const float* rows, size_t windows, size_t width, float* out) {
  std::copy_n(rows, width, out);
  if (windows == 1) return;
  const size_t parts = windows - 1;
  const float* whole = rows + parts * width;
  for (size_t w = 1; w < parts; ++w)
    for (size_t i = 0; i < width; ++i) out[i] += rows[w * width + i];
  for (size_t i = 0; i < width; ++i)
    out[i] = 0.5f * (out[i] / static_cast<float>(parts) + whole[i]);
}

}  // namespace

// Some sequences at a time, so that memory is bounded whatever the batch.
void Encoder::embed_channels(const float* values, size_t width, bool apart, float* out) {
  const Settings& s = model_.settings;
  const size_t size = apart ? width * s.channel_size() : s.output_size();
  const size_t pooled = width * s.pooled_size(), levels = width * s.channels.levels();
  const size_t batch = given_lengths_.size();
  const auto windows = [&](size_t i) {
    return width * s.channels.windows(static_cast<size_t>(given_lengths_[i]));
  };
  for (size_t first = 0, last = 0; first < batch; first = last) {
    size_t count = windows(last++);
    while (last < batch && count + windows(last) <= kGroupWindows) count += windows(last++);
    pooled_.resize((last - first) * pooled);
    activity_.resize((last - first) * width);
    levels_.resize((last - first) * levels);
    pool_channels(values, width, first, last);
    for (size_t i = first; i < last; ++i, out += size) {
      values += static_cast<size_t>(given_lengths_[i]) * width;
      const Join::Channels channels{pooled_.data() + (i - first) * pooled,
                                    activity_.data() + (i - first) * width,
                                    levels_.data() + (i - first) * levels, width};
      if (apart)
        join_->keep(channels, out);
      else
        join_->join(channels, out);
    }
  }
}

// Pooled rows, activity and levels of all channels of sequences first .. last - 1.
void Encoder::pool_channels(const float* values, size_t width, size_t first, size_t last) {
  const Settings& s = model_.settings;
  const ChannelSettings& c = s.channels;
  const size_t token_floats = c.tokens() * c.token_size(), pooled = s.pooled_size();
  ChannelReader reader(c);
  float* activity = activity_.data();
  float* levels = levels_.data();
  float* rows = pooled_.data();
  size_t count = 0;
  const auto flush = [&] {
    lengths_.assign(count, static_cast<int64_t>(c.tokens()));
    window_rows_.resize(count * pooled);
    compute(tokens_.data(), window_rows_.data());
    const float* row = window_rows_.data();
    for (const size_t n : windows_) {
      average_windows(row, n, pooled, rows);
      row += n * pooled;
      rows += pooled;
    }
    windows_.clear();
    count = 0;
  };
  for (size_t i = first; i < last; ++i) {
    const auto timesteps = static_cast<size_t>(given_lengths_[i]);
    for (size_t channel = 0; channel < width; ++channel, levels += c.levels()) {
      const bool known = channel < model_.calibration.size();
      reader.read(values + channel, width, timesteps,
                  known ? model_.calibration[channel] : Calibration{});
      *activity++ = reader.activity();
      reader.levels(levels);
      const size_t n = c.windows(timesteps);
      if (count && count + n > kGroupWindows) flush();
      tokens_.resize((count + n) * token_floats);
      reader.tokens(tokens_.data() + count * token_floats);
      windows_.push_back(n);
      count += n;
    }
    values += timesteps * width;
  }
  flush();
}

}  // namespace tritserve
