// One channel's series as the encoder reads it, whatever its length: what model/channels.py tells,
// in its order, in double precision and without a library's functions but for the square root, so
// that the bytes are the same everywhere.
#pragma once

#include <cstddef>
#include <vector>

namespace tritserve {

struct ChannelSettings {
  size_t points = 0, patch = 0, window = 0, segments = 0, shape_size = 0, levels_size = 0;

  static constexpr size_t kLevels = 7;

  size_t token_size() const { return 2 * patch + 2; }
  size_t tokens() const { return points / patch; }
  size_t levels() const { return kLevels + segments; }
  size_t joined_size() const { return shape_size + levels_size; }
  // Of a series: its windows, and the whole of it where it has several.
  size_t windows(size_t timesteps) const {
    const size_t count = (timesteps + window - 1) / window;
    return count == 1 ? 1 : count + 1;
  }
};

// What a channel's values are calibrated by; a spread of zero where nothing is known of it.
struct Calibration {
  double center = 0.0, spread = 0.0;
};

struct Moments {
  double mean = 0.0, deviation = 0.0;
};

class ChannelReader {
 public:
  explicit ChannelReader(const ChannelSettings& settings) : s_(settings) {}

  // values[t * stride] for t < timesteps; NaN where one is missing.
  void read(const float* values, size_t stride, size_t timesteps, const Calibration& calibration);

  // Tokens of all windows, [windows, tokens, token_size].
  void tokens(float* out);
  // [levels]
  void levels(float* out);
  // What the channel's shape counts.
  float activity() const { return activity_; }

 private:
  using Series = std::vector<double>;

  void fill(const float* values, size_t stride);
  void draw(size_t begin, size_t end, size_t points);
  void tokens_of_window(size_t begin, size_t end, float* out);

  const ChannelSettings& s_;
  Series series_, drawn_, steps_;
  double floor_ = 0.0, missing_ = 0.0;
  Moments whole_;
  float activity_ = 1.0f;
};

}  // namespace tritserve
