// What a worker does with rows of activations, whatever they are of: norms, rounding, matrices.
#pragma once

#include "forward.hpp"

namespace tritserve {

struct Range {
  size_t begin, end;
  size_t size() const { return end - begin; }
};

// Rows of activations as the next matrix takes them.
struct Input {
  const float* floats;
  size_t stride, width, rows;
};

class Layers {
 protected:
  Layers(const Tools& tools, const Team& team, Workspace& block, Workspace& own)
      : model_(tools.model),
        s_(tools.model.settings),
        k_(tools.kernels),
        team_(team),
        block_(block),
        own_(own),
        hidden_(row_stride(s_.hidden_size)),
        query_(row_stride(s_.query_size())) {}

  void meet() const {
    if (team_.barrier) team_.barrier->wait();
  }

  void meet_by_columns() const {
    if (team_.by_columns) meet();
  }

  // This worker's share of `count` things when the team works by columns, else all of them.
  Range share(size_t count) const {
    if (!team_.by_columns) return {0, count};
    return {count * team_.rank / team_.size, count * (team_.rank + 1) / team_.size};
  }

  // Norm, and rounding where the model rounds.
  Input prepare(const float* x, size_t stride, size_t width, size_t rows, Norm norm,
                Affine affine) const {
    const size_t to = row_stride(width);
    if (s_.int8_activations) {
      k_.quantize({x, stride, rows, width}, norm, affine, quantized(width), own_.row.data());
      return {nullptr, 0, width, rows};
    }
    if (norm == Norm::none) return {x, stride, width, rows};
    k_.normalize({x, stride, rows, width}, norm, affine, own_.normalized.data(), to);
    return {own_.normalized.data(), to, width, rows};
  }

  Input prepare(const float* x, size_t rows, const NormTensors& norm) const {
    return prepare(x, hidden_, s_.hidden_size, rows, this->norm(), norm.affine);
  }

  Norm norm() const { return s_.layernorm ? Norm::layernorm : Norm::rmsnorm; }
  Norm sub_norm() const { return s_.sub_norm ? norm() : Norm::none; }

  Quantized quantized(size_t width) const {
    return {own_.q.data(), byte_stride(width), own_.q_scale.data(), own_.q_sum.data()};
  }

  void linear(const Linear& linear, const Input& in, float* out, size_t stride,
              Epilogue epilogue) const {
    const Range panels = share(linear.panel_count());
    const Output output{out, stride, epilogue};
    if (in.floats) {
      k_.float_matmul(linear.matrix, in.floats, in.stride, in.rows, panels.begin, panels.end,
                      output, own_.float_panels.data());
    } else {
      k_.matmul(linear.matrix, quantized(in.width), in.rows, panels.begin, panels.end, output,
                own_.codes.data());
    }
    meet_by_columns();
  }

  // x += output(attended), then x += ffn(norm(x))
  void feed(const Block& block, float* x, const float* attended, size_t rows) const {
    linear(block.output, prepare(attended, query_, s_.query_size(), rows, sub_norm(), {}), x,
           hidden_, Epilogue::add);
    const Input in = prepare(x, rows, block.ffn_norm);
    const size_t stride = row_stride(s_.inner_size);
    float* inner = block_.inner.data();
    if (s_.swiglu) linear(block.gate, in, inner, stride, Epilogue::silu);
    linear(block.up, in, inner, stride, s_.swiglu ? Epilogue::multiply : Epilogue::silu);
    linear(block.down, prepare(inner, stride, s_.inner_size, rows, sub_norm(), {}), x, hidden_,
           Epilogue::add);
  }

  const Model& model_;
  const Settings& s_;
  const Kernels& k_;
  const Team& team_;
  Workspace& block_;  // of whoever shares its outputs
  Workspace& own_;
  const size_t hidden_, query_;  // strides
};

}  // namespace tritserve
