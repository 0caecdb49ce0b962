#include "model.hpp"

#include <algorithm>
#include <stdexcept>

#include "panel.hpp"

namespace tritserve {
namespace {

constexpr size_t kMostWide = size_t{1} << 24;

void check(const Settings& s) {
  const auto sensible = [](size_t n) { return 1 <= n && n <= kMostWide; };
  for (size_t n : {s.embed_dim, s.hidden_size, s.num_heads, s.key_value_heads, s.num_layers,
                   s.inner_size, s.max_timesteps, s.stride})
    if (!sensible(n)) throw std::invalid_argument("a setting is zero or too large");
  if (s.differences > kMostDifferences) throw std::invalid_argument("too many differences");
  if (s.hidden_size % s.num_heads || s.num_heads % s.key_value_heads)
    throw std::invalid_argument("the numbers of heads do not divide");
  if (s.attention_window > kMostWide || (s.attention_window && !s.causal))
    throw std::invalid_argument("an attention window is too large, or not of causal attention");
  if (s.rope && s.head_dim() % 2) throw std::invalid_argument("rope needs an even head size");
  if (s.rope && !(s.rope_theta > 1.0)) throw std::invalid_argument("rope_theta must be above 1");
  if (!s.by_channel) return;
  const ChannelSettings& c = s.channels;
  for (size_t n : {c.points, c.patch, c.window, c.segments, c.shape_size, c.levels_size})
    if (!sensible(n)) throw std::invalid_argument("a setting of the channels is zero or too large");
  if (c.points % c.patch) throw std::invalid_argument("points are no whole number of patches");
  if (s.embed_dim != c.token_size() || s.stride != 1 || s.differences)
    throw std::invalid_argument("the encoder's input is not the tokens of channels");
}

class Source {
 public:
  Source(const Settings& settings, const Arrays& arrays) : settings_(settings), arrays_(arrays) {}

  // A float row filled with zeros up to a whole number of vectors.
  Buffer<float> row(const std::string& name, size_t count) const {
    const float* data = floats(name, count);
    Buffer<float> result(padded(count));
    std::copy(data, data + count, result.data());
    return result;
  }

  NormTensors norm(const std::string& name) const {
    NormTensors result;
    result.weight = row(name + ".weight", settings_.hidden_size);
    result.affine.weight = result.weight.data();
    if (settings_.layernorm) {
      result.bias = row(name + ".bias", settings_.hidden_size);
      result.affine.bias = result.bias.data();
    }
    return result;
  }

  Linear dense(const std::string& name, size_t outputs, size_t inputs) const {
    Linear linear;
    linear.dense = make_dense_panels(floats(name + ".weight", outputs * inputs), outputs, inputs);
    linear.scale = Buffer<float>(1);
    linear.scale[0] = 1.0f;
    linear.bias = row(name + ".bias", outputs);
    linear.matrix = {Weights::dense,      linear.dense.data(), inputs, outputs,
                     linear.scale.data(), false,               linear.bias.data()};
    return linear;
  }

  // Rows first .. first + rows - 1 of a packed layer [outputs, inputs].
  Linear packed(const std::string& name, size_t outputs, size_t inputs, size_t first,
                size_t rows) const {
    const Weights weights = settings_.binary ? Weights::binary : Weights::ternary;
    const Array& array = find(name + ".packed", Type::uint8);
    const auto* bytes = static_cast<const uint8_t*>(array.data);
    Linear linear;
    linear.panels = make_panels({bytes, array.count, outputs, inputs, first, rows}, weights);
    const Array& scale = find(name + ".scale", Type::float32);
    const bool per_column = scale.count != 1;
    if (per_column && scale.count != outputs)
      throw std::invalid_argument("tensor '" + name + ".scale' has the wrong size");
    linear.scale = part(scale, per_column ? first : 0, per_column ? rows : 1);
    linear.matrix = {weights,             linear.panels.data(), inputs, rows,
                     linear.scale.data(), per_column,           nullptr};
    if (settings_.bias) {
      floats(name + ".bias", outputs);
      linear.bias = part(find(name + ".bias", Type::float32), first, rows);
      linear.matrix.bias = linear.bias.data();
    }
    return linear;
  }

  // What each channel is calibrated by, where the model knows its channels.
  std::vector<Calibration> calibration() const {
    const auto found = arrays_.find("calibration.center");
    if (found == arrays_.end()) return {};
    const size_t count = found->second.count;
    const float* center = floats("calibration.center", count);
    const float* spread = floats("calibration.spread", count);
    std::vector<Calibration> result;
    for (size_t i = 0; i < count; ++i) result.push_back({center[i], spread[i]});
    return result;
  }

  Linear packed(const std::string& name, size_t outputs, size_t inputs) const {
    return packed(name, outputs, inputs, 0, outputs);
  }

 private:
  const Array& find(const std::string& name, Type type) const {
    const auto found = arrays_.find(name);
    if (found == arrays_.end()) throw std::invalid_argument("tensor '" + name + "' is missing");
    if (found->second.type != type)
      throw std::invalid_argument("tensor '" + name + "' has the wrong type");
    return found->second;
  }

  const float* floats(const std::string& name, size_t count) const {
    const Array& array = find(name, Type::float32);
    if (array.count != count)
      throw std::invalid_argument("tensor '" + name + "' has the wrong size");
    return static_cast<const float*>(array.data);
  }

  static Buffer<float> part(const Array& array, size_t first, size_t count) {
    const float* data = static_cast<const float*>(array.data) + first;
    Buffer<float> result(padded(count));
    std::copy(data, data + count, result.data());
    return result;
  }

  const Settings& settings_;
  const Arrays& arrays_;
};

Block load_block(const Source& source, const Settings& s, const std::string& name) {
  const std::string attention = name + ".attention", ffn = name + ".ffn";
  const std::string joint = attention + ".query_key_value";
  const size_t all = s.query_size() + s.key_value_size();
  Block block;
  block.attention_norm = source.norm(attention + "_norm");
  block.ffn_norm = source.norm(ffn + "_norm");
  block.query = source.packed(joint, all, s.hidden_size, 0, s.query_size());
  block.key_value =
      source.packed(joint, all, s.hidden_size, s.query_size(), s.key_value_size());
  block.output = source.packed(attention + ".output", s.hidden_size, s.query_size());
  if (s.swiglu) block.gate = source.packed(ffn + ".gate", s.inner_size, s.hidden_size);
  block.up = source.packed(ffn + ".up", s.inner_size, s.hidden_size);
  block.down = source.packed(ffn + ".down", s.hidden_size, s.inner_size);
  return block;
}

template <typename Function>
void for_each_packed(const Model& model, Function function) {
  for (const Block& b : model.blocks)
    for (const Linear* linear : {&b.query, &b.key_value, &b.output, &b.gate, &b.up, &b.down})
      function(*linear);
}

}  // namespace

Model::Model(const Settings& settings, const Arrays& arrays) : settings(settings) {
  check(settings);
  const Source source(settings, arrays);
  mean = source.row("standardize.mean", settings.input_size());
  std = source.row("standardize.std", settings.input_size());
  has_input_projection = settings.input_size() != settings.hidden_size;
  if (has_input_projection)
    input_projection =
        source.dense("input_projection", settings.hidden_size, settings.input_size());
  for (size_t i = 0; i < settings.num_layers; ++i)
    blocks.push_back(load_block(source, settings, "blocks." + std::to_string(i)));
  final_norm = source.norm("final_norm");
  if (!settings.by_channel) return;
  const ChannelSettings& c = settings.channels;
  pooled_mean = source.row("join.mean", settings.pooled_size());
  pooled_std = source.row("join.std", settings.pooled_size());
  join_shape = source.packed("join.shape", c.shape_size, settings.pooled_size());
  join_levels = source.packed("join.levels", c.levels_size, c.levels());
  calibration = source.calibration();
}

size_t Model::panel_bytes() const {
  size_t bytes = 0;
  for_each_packed(*this, [&](const Linear& linear) { bytes += linear.panels.count(); });
  return bytes;
}

size_t Model::weights() const {
  size_t count = 0;
  for_each_packed(*this, [&](const Linear& linear) {
    count += linear.matrix.outputs * linear.matrix.inputs;
  });
  return count;
}

}  // namespace tritserve
