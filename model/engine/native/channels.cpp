#include "channels.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace tritserve {
namespace {

constexpr double kMostDeviations = 8.0;
constexpr double kLevelWeights[ChannelSettings::kLevels] = {2.4, 3.4, 1.8, 1.8, 3.8, 8.0, 4.0};
constexpr double kSegmentWeight = 0.8;
constexpr double kFloor = 0.05, kUncalibratedFloor = 1e-6, kStepFloor = 1e-3;

Moments moments(const double* x, size_t n) {
  double sum = 0.0, squares = 0.0;
  for (size_t i = 0; i < n; ++i) sum += x[i];
  const double mean = sum / static_cast<double>(n);
  for (size_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
  return {mean, std::sqrt(squares / static_cast<double>(n))};
}

double fourth_root(double x) { return std::sqrt(std::sqrt(x)); }

// Natural logarithm of a normal x >= 1: of its power of two, and by the series of
// 2 artanh((m - 1) / (m + 1)) of the rest m, which lies about 1.
double logarithm(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  int exponent = static_cast<int>(bits >> 52) - 1023;
  bits = (bits & ((uint64_t{1} << 52) - 1)) | (uint64_t{1023} << 52);
  double m;
  std::memcpy(&m, &bits, sizeof m);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  const double s = (m - 1.0) / (m + 1.0), square = s * s;
  double sum = 0.0;
  for (int k = 23; k > 0; k -= 2) sum = sum * square + 1.0 / k;
  return 2.0 * s * sum + exponent * 0.6931471805599453;
}

double squash(double x) {
  const double magnitude = std::fabs(x);
  // For small x the sum below would lose digits; the series has as many as float32 takes.
  const double y = magnitude < 1e-4
                       ? magnitude - magnitude * magnitude * magnitude / 6.0
                       : logarithm(magnitude + std::sqrt(magnitude * magnitude + 1.0));
  return x < 0.0 ? -y : y;
}

}  // namespace

void ChannelReader::read(const float* values, size_t stride, size_t timesteps,
                         const Calibration& calibration) {
  series_.resize(timesteps);
  fill(values, stride);
  if (calibration.spread > 0.0) {
    for (double& v : series_) v = (v - calibration.center) / calibration.spread;
    floor_ = kFloor;
    whole_ = moments(series_.data(), timesteps);
    activity_ = static_cast<float>(std::min(1.0, fourth_root(whole_.deviation)));
    return;
  }
  double largest = 0.0;
  for (const double v : series_) largest = std::max(largest, std::fabs(v));
  floor_ = kUncalibratedFloor * largest;
  whole_ = moments(series_.data(), timesteps);
  activity_ = 1.0f;
}

// Missing values lie on the line between their neighbours, or hold the nearest at the ends.
void ChannelReader::fill(const float* values, size_t stride) {
  const size_t n = series_.size();
  size_t missing = 0, known = n;  // known: the last timestep that was, n before there is one
  for (size_t t = 0; t < n; ++t) {
    const float value = values[t * stride];
    if (std::isnan(value)) {
      ++missing;
      continue;
    }
    series_[t] = value;
    if (known == n) {
      std::fill(series_.begin(), series_.begin() + static_cast<ptrdiff_t>(t), series_[t]);
    } else if (t - known > 1) {
      const double slope = (series_[t] - series_[known]) / static_cast<double>(t - known);
      for (size_t i = known + 1; i < t; ++i)
        series_[i] = series_[known] + slope * static_cast<double>(i - known);
    }
    known = t;
  }
  const auto rest = series_.begin() + static_cast<ptrdiff_t>(known == n ? 0 : known + 1);
  std::fill(rest, series_.end(), known == n ? 0.0 : series_[known]);
  missing_ = static_cast<double>(missing) / static_cast<double>(n);
}

// Timesteps begin .. end - 1 at `points` points in time, into drawn_.
void ChannelReader::draw(size_t begin, size_t end, size_t points) {
  const double* v = series_.data() + begin;
  const size_t n = end - begin;
  drawn_.resize(points);
  if (n <= points) {
    const double step = static_cast<double>(n - 1) /
                        static_cast<double>(std::max<size_t>(points - 1, 1));
    for (size_t i = 0; i < points; ++i) {
      const double at = static_cast<double>(i) * step;
      const size_t before = std::min(static_cast<size_t>(at), n < 2 ? 0 : n - 2);
      const double share = at - static_cast<double>(before);
      drawn_[i] = v[before] * (1.0 - share) + v[std::min(before + 1, n - 1)] * share;
    }
    return;
  }
  // A span's mean is the difference of the integral over time at its ends.
  const double span = static_cast<double>(n) / static_cast<double>(points);
  size_t summed = 0;
  double total = 0.0, last = 0.0;
  for (size_t i = 0; i < points; ++i) {
    const double at = static_cast<double>(i + 1) * span;
    const size_t before = std::min(static_cast<size_t>(at), n - 1);
    for (; summed < before; ++summed) total += v[summed];
    const double integral = total + (at - static_cast<double>(before)) * v[before];
    drawn_[i] = (integral - last) / span;
    last = integral;
  }
}

void ChannelReader::tokens(float* out) {
  const size_t n = series_.size(), count = (n + s_.window - 1) / s_.window;
  const size_t size = s_.tokens() * s_.token_size();
  for (size_t i = 0; i < count; ++i)
    tokens_of_window(n * i / count, n * (i + 1) / count, out + i * size);
  if (count > 1) tokens_of_window(0, n, out + count * size);
}

void ChannelReader::tokens_of_window(size_t begin, size_t end, float* out) {
  draw(begin, end, s_.points);
  const Moments whole = moments(drawn_.data(), s_.points);
  const double scale = whole.deviation + floor_;
  for (double& v : drawn_) {
    // A constant of zero has neither deviation nor floor.
    const double scaled = scale > 0.0 ? (v - whole.mean) / scale : 0.0;
    v = static_cast<float>(std::clamp(scaled, -kMostDeviations, kMostDeviations));
  }
  steps_.resize(s_.points);
  for (size_t i = 0; i + 1 < s_.points; ++i) steps_[i] = drawn_[i + 1] - drawn_[i];
  steps_[s_.points - 1] = 0.0;
  const double step_scale = moments(steps_.data(), s_.points).deviation + kStepFloor;
  for (size_t token = 0; token < s_.tokens(); ++token, out += s_.token_size()) {
    const double* patch = drawn_.data() + token * s_.patch;
    const Moments own = moments(patch, s_.patch);
    for (size_t i = 0; i < s_.patch; ++i) {
      out[i] = static_cast<float>(patch[i] - own.mean);
      out[s_.patch + i] = static_cast<float>(steps_[token * s_.patch + i] / step_scale);
    }
    out[2 * s_.patch] = static_cast<float>(own.mean);
    out[2 * s_.patch + 1] = static_cast<float>(fourth_root(own.deviation));
  }
}

void ChannelReader::levels(float* out) {
  const size_t n = series_.size();
  const auto [lowest, highest] = std::minmax_element(series_.begin(), series_.end());
  double change = 0.0;
  for (size_t t = 1; t < n; ++t) change += std::fabs(series_[t] - series_[t - 1]);
  if (n > 1) change /= static_cast<double>(n - 1);
  const double rows[ChannelSettings::kLevels] = {
      whole_.mean, whole_.deviation, *lowest, *highest, change, fourth_root(whole_.deviation),
      missing_};
  for (size_t i = 0; i < ChannelSettings::kLevels; ++i)
    *out++ = static_cast<float>(squash(rows[i]) * kLevelWeights[i]);
  draw(0, n, s_.segments);
  for (const double mean : drawn_) *out++ = static_cast<float>(squash(mean) * kSegmentWeight);
}

}  // namespace tritserve
