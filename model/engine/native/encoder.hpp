// A BitNet encoder: ragged batches in, embeddings out, on a number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "advance.hpp"
#include "fork.hpp"
#include "forward.hpp"
#include "join.hpp"

namespace tritserve {

class Encoder {
 public:
  // Throws std::invalid_argument: a tensor is missing or does not fit the settings, or there are
  // too few or too many threads.
  Encoder(const Settings& settings, const Arrays& arrays, const Kernels& kernels, int threads);
  Encoder(const Encoder&) = delete;
  Encoder& operator=(const Encoder&) = delete;

  // values [timesteps, width], lengths [batch] -> out [batch, output_size]; where channels are seen
  // one by one, the width is any number of channels, and `apart` asks for all of them,
  // [batch, channels, channel_size].
  // Calls from several threads take turns, and a fork waits for its turn too. Throws
  // std::invalid_argument: lengths lie.
  void embed(const float* values, size_t timesteps, size_t width, const int64_t* lengths,
             size_t batch, bool apart, float* out);

  // Throws std::invalid_argument: the model cannot stream. The encoder must outlive it.
  std::unique_ptr<Stream> stream(bool restarts);
  // Gives each stream its frames: frames [timesteps, embed_dim], lengths [batch] -> out [batch,
  // output_size], or [timesteps, output_size] with `every`. What is refused changes no stream.
  // Throws std::invalid_argument: lengths lie; std::bad_alloc.
  Refusal push(const std::vector<Stream*>& streams, const float* frames, size_t timesteps,
               const int64_t* lengths, bool every, float* out);
  const StreamMemory& stream_memory() const { return stream_memory_; }

  // Calls function() while no other thread computes.
  template <typename Function>
  auto alone(Function function) {
    const std::lock_guard lock(mutex_);
    return function();
  }

  const Model& model() const { return model_; }
  const char* kernels() const { return kernels_.name; }
  int threads() const { return pool_.size(); }

  // Batches of fewer multiplications are computed by one thread alone; the answer is the same.
  double alone_work;

 private:
  Refusal find_refusal(const std::vector<Stream*>& streams) const;
  void run_portions();
  void compute(const float* values, float* out);
  void embed_channels(const float* values, size_t width, bool apart, float* out);
  void pool_channels(const float* values, size_t width, size_t first, size_t last);
  void arrange(const float* values, float* out);
  void add_chunk(size_t begin, size_t end);
  void grow();
  void run_team(int rank);
  void run_alone(int rank);
  void find_sequences(const Chunk& chunk, Workspace& workspace) const;

  Model model_;
  const Kernels& kernels_;
  Rope rope_;
  Pool pool_;
  Barrier barrier_;
  std::vector<Workspace> workspaces_;
  ForkMutex mutex_;

  // Where channels are seen one by one.
  std::unique_ptr<Join> join_;
  std::vector<int64_t> given_lengths_;
  std::vector<float> tokens_, window_rows_, pooled_, activity_, levels_;
  std::vector<size_t> windows_;

  // Of streams, and of the push being computed.
  StreamMemory stream_memory_;
  std::vector<Portion> portions_;
  std::vector<size_t> ends_;  // of the portions that one worker takes at a time

  // Of the batch being computed.
  std::vector<int64_t> lengths_;
  std::vector<size_t> order_, offsets_;
  std::vector<double> costs_;
  std::vector<Sequence> sequences_;
  std::vector<Chunk> chunks_;
  size_t team_chunks_ = 0;  // the first of the chunks; the others are computed by one worker each
  bool alone_ = false;      // one worker computes it all
  std::atomic<size_t> next_{0};
};

}  // namespace tritserve
