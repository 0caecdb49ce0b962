#include "join.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace tritserve {
namespace {

constexpr size_t kRows = 16;  // channels multiplied at a time
// Odd, and not near a simple share of the usual widths: the next channel's numbers lie elsewhere.
constexpr size_t kMove = 157;

// SplitMix64 (Steele, Lea and Flood 2014): 64 bits that look like chance.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

void change_signs(float* row, size_t width, size_t channel) {
  for (size_t i = 0; i < width; i += 64) {
    const uint64_t bits = mix((uint64_t{channel} << 32) + i / 64);
    for (size_t j = i; j < std::min(width, i + 64); ++j)
      if ((bits >> (j - i)) & 1) row[j] = -row[j];
  }
}

}  // namespace

Join::Join(const Model& model, const Kernels& kernels) : model_(model), kernels_(kernels) {
  const Settings& s = model.settings;
  const size_t in = std::max(s.pooled_size(), s.channels.levels());
  const size_t out = std::max(s.channels.shape_size, s.channels.levels_size);
  rows_.grow(kRows * row_stride(in));
  scratch_.grow(kLanes * row_stride(in));
  product_.grow(kRows * row_stride(out));
  q_.grow(kRows * byte_stride(in));
  scale_.grow(kRows);
  sum_.grow(kRows);
  codes_.grow(kMaxPanelGroup * padded(in, kByteStride) * kLanes);
}

void Join::shape(const Channels& channels, size_t channel, float* out) const {
  const size_t size = model_.settings.pooled_size();
  kernels_.standardize(channels.pooled + channel * size, model_.pooled_mean.data(),
                       model_.pooled_std.data(), size, out);
  for (size_t i = 0; i < size; ++i) out[i] *= channels.activity[channel];
}

// out += the product of channels first .. first + count - 1, whose rows stand in rows_.
void Join::add(const Linear& linear, size_t first, size_t count, float* out) {
  const size_t in = linear.matrix.inputs, width = linear.matrix.outputs;
  const size_t stride = row_stride(in), to = row_stride(width);
  for (size_t r = 0; r < count; ++r) change_signs(rows_.data() + r * stride, in, first + r);
  const Quantized quantized{q_.data(), byte_stride(in), scale_.data(), sum_.data()};
  kernels_.quantize({rows_.data(), stride, count, in}, Norm::none, {}, quantized, scratch_.data());
  kernels_.matmul(linear.matrix, quantized, count, 0, linear.panel_count(),
                  {product_.data(), to, Epilogue::store}, codes_.data());
  for (size_t r = 0; r < count; ++r) {
    const float* product = product_.data() + r * to;
    const size_t moved = (first + r) * kMove % width;
    for (size_t i = 0; i < width - moved; ++i) out[moved + i] += product[i];
    for (size_t i = width - moved; i < width; ++i) out[moved + i - width] += product[i];
  }
}

void Join::join(const Channels& channels, float* out) {
  const Settings& s = model_.settings;
  const size_t wide = s.pooled_size(), narrow = s.channels.levels();
  std::fill(out, out + s.channels.joined_size(), 0.0f);
  for (size_t first = 0; first < channels.count; first += kRows) {
    const size_t count = std::min(kRows, channels.count - first);
    rows_.zero();
    for (size_t r = 0; r < count; ++r)
      shape(channels, first + r, rows_.data() + r * row_stride(wide));
    add(model_.join_shape, first, count, out);
    rows_.zero();
    for (size_t r = 0; r < count; ++r)
      std::copy_n(channels.levels + (first + r) * narrow, narrow,
                  rows_.data() + r * row_stride(narrow));
    add(model_.join_levels, first, count, out + s.channels.shape_size);
  }
  const float root = std::sqrt(static_cast<float>(channels.count));
  for (size_t i = 0; i < s.channels.joined_size(); ++i) out[i] /= root;
}

void Join::keep(const Channels& channels, float* out) const {
  const Settings& s = model_.settings;
  const size_t levels = s.channels.levels();
  for (size_t c = 0; c < channels.count; ++c, out += s.channel_size()) {
    shape(channels, c, out);
    std::copy_n(channels.levels + c * levels, levels, out + s.pooled_size());
  }
}

}  // namespace tritserve
