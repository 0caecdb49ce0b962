// A model's settings and its tensors, made ready for the kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "buffer.hpp"
#include "channels.hpp"
#include "kernels.hpp"

namespace tritserve {

constexpr size_t kMostDifferences = 2;

enum class Pooling { last, mean, weighted_mean, mean_max };

// As model/config.py names them, with every default filled in.
struct Settings {
  size_t embed_dim, hidden_size, num_heads, key_value_heads, num_layers, inner_size, max_timesteps;
  size_t stride, differences;
  size_t attention_window;  // rows that a row attends to at most, itself included; 0: no limit
  bool binary, int8_activations, sub_norm, layernorm, swiglu, rope, bias, causal;
  Pooling pooling;
  double rope_theta;
  // Where channels are seen one by one: then embed_dim is the size of a token, and max_timesteps is
  // of the series.
  bool by_channel;
  ChannelSettings channels;

  // Rows of a sequence inside the model.
  size_t rows(size_t timesteps) const { return (timesteps + stride - 1) / stride; }
  size_t input_size() const { return (1 + differences) * embed_dim; }
  size_t pooled_size() const { return (pooling == Pooling::mean_max ? 2 : 1) * hidden_size; }
  // Of one channel, where they are kept apart.
  size_t channel_size() const { return pooled_size() + channels.levels(); }
  size_t output_size() const { return by_channel ? channels.joined_size() : pooled_size(); }
  size_t head_dim() const { return hidden_size / num_heads; }
  size_t query_size() const { return num_heads * head_dim(); }
  size_t key_value_size() const { return 2 * key_value_heads * head_dim(); }
};

enum class Type { uint8, float32 };

struct Array {
  Type type;
  const void* data;
  size_t count;
};

// Tensors by their names in the packed file.
using Arrays = std::map<std::string, Array>;

// A matrix that owns its memory.
struct Linear {
  Matrix matrix{};
  Buffer<uint8_t> panels;
  Buffer<float> dense, scale, bias;

  size_t panel_count() const { return padded(matrix.outputs) / kLanes; }
};

struct NormTensors {
  Buffer<float> weight, bias;
  Affine affine{};
};

struct Block {
  NormTensors attention_norm, ffn_norm;
  Linear query, key_value, output, gate, up, down;
};

struct Model {
  // Throws std::invalid_argument: a tensor is missing or does not fit the settings.
  Model(const Settings& settings, const Arrays& arrays);

  Settings settings;
  Buffer<float> mean, std;
  bool has_input_projection;
  Linear input_projection;
  std::vector<Block> blocks;
  NormTensors final_norm;

  // Of channels seen one by one: what their pooled rows are standardised by, and the ternary
  // projections that join them.
  Buffer<float> pooled_mean, pooled_std;
  Linear join_shape, join_levels;
  std::vector<Calibration> calibration;

  // Bytes of all panels of packed weights, and the number of weights they stand for.
  size_t panel_bytes() const;
  size_t weights() const;
};

}  // namespace tritserve
