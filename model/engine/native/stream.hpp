// A live stream: what an encoder keeps of the frames (timesteps) that it has had.
//
// A push begins, takes frames, and is either committed or rolled back. Until then the stream holds
// what it had before: the numbers of its state twice, and every page that the push has no more use
// for. Slots of pages after its last row are nobody's, so keys and values are written in place.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "stream_memory.hpp"

namespace tritserve {

// What a stream is, whatever the memory's layout: how it is saved.
struct StreamContent {
  uint64_t timesteps;        // since it started
  std::vector<float> state;  // [Stream::state_size]
  std::vector<float> keys;   // [rows, layers, key_value_heads, head_dim], rotated
  std::vector<float> values;
};

class Stream {
 public:
  // Throws std::bad_alloc.
  Stream(const Settings& settings, StreamMemory& memory, bool restarts);
  ~Stream() { close(); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Frames it can still be given.
  uint64_t room() const;
  uint64_t timesteps() const { return timesteps_; }
  bool restarts() const { return restarts_; }
  bool closed() const { return closed_; }
  const StreamMemory& memory() const { return memory_; }

  // Gives its memory back.
  void close();

  StreamContent content() const;
  // Of a new stream. Throws std::invalid_argument: the sizes do not fit.
  void fill(const StreamContent& content);

  // How many floats of state a stream has: the sum of the frames of the row that has begun
  // [embed_dim], the features of the rows before it and its own [differences + 1, embed_dim], then
  // where rows are pooled their sums [3, padded hidden_size] and their maxima [padded hidden_size].
  static size_t state_size(const Settings& settings);
  static size_t pool_size(const Settings& settings);
  // What a stream comes to hold between pushes, at most.
  static size_t most_bytes(const Settings& settings, const StreamMemory& memory);

  // A push of so many frames at most. What it allocates, it allocates here.
  void begin(size_t frames);
  size_t pages_needed(size_t frames) const;
  void commit();
  void roll_back();

  // Whether the next frame would start it anew.
  bool full() const;
  void restart();

  struct Row {
    uint64_t position;
    bool whole;  // no frame to come belongs to it
  };
  // Takes a frame: inputs [input_size] of the row that it belongs to, as of now.
  Row take(const float* frame, float* inputs);

  // First position that a row attends to.
  uint64_t first_seen(uint64_t position) const;
  const float* const* pages(uint64_t position) const {
    return pages_.data() + (position / kLanes - first_page_);
  }
  float* page(uint64_t position) const { return pages_[position / kLanes - first_page_]; }
  float* pool() { return next_.floats.data() + pool_; }
  // Lets go of pages that no later row attends to.
  void forget();

 private:
  struct State {
    uint64_t timesteps = 0;
    Buffer<float> floats;
  };

  template <typename Function>
  void for_each_head(uint64_t position, Function function) const;
  void drop(size_t pages);

  const Settings& s_;
  StreamMemory& memory_;
  const bool restarts_;
  const size_t pool_;
  std::atomic<bool> closed_{false};
  std::atomic<uint64_t> timesteps_{0};  // now_'s, for whoever looks during a push
  State now_, next_;
  std::vector<float*> pages_;  // of positions from first_page_ * kLanes on
  uint64_t first_page_ = 0;

  // Of the push.
  uint64_t first_page_before_ = 0;
  size_t from_before_ = 0;       // of pages_, the first so many
  std::vector<float*> retired_;  // the ones before those
};

}  // namespace tritserve
