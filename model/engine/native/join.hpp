// The channels of a sequence into one embedding, whatever their number.
//
// Each channel's pooled row, standardised and times its activity, is multiplied by a ternary matrix,
// and so are its levels. Before that its numbers change sign, and after it they move on round the embedding, by a
// rule for each channel, so that the sum over all of them still tells which was which. The sum is
// divided by the root of their number.
#pragma once

#include "model.hpp"

namespace tritserve {

class Join {
 public:
  Join(const Model& model, const Kernels& kernels);

  // What is known of the channels of a sequence.
  struct Channels {
    const float* pooled;    // [count, pooled_size]
    const float* activity;  // [count]
    const float* levels;    // [count, levels]
    size_t count;
  };

  // -> out [joined_size]
  void join(const Channels& channels, float* out);
  // -> out [count, channel_size], each channel for itself.
  void keep(const Channels& channels, float* out) const;

 private:
  void shape(const Channels& channels, size_t channel, float* out) const;
  void add(const Linear& linear, size_t first, size_t count, float* out);

  const Model& model_;
  const Kernels& kernels_;
  Buffer<float> rows_, product_, scale_, scratch_;
  Buffer<int8_t> q_;
  Buffer<int32_t> sum_;
  Buffer<uint8_t> codes_;
};

}  // namespace tritserve
