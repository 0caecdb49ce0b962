// The memory of an encoder's streams: pages of keys and values, handed out again once given back.
#pragma once

#include <atomic>
#include <mutex>
#include <vector>

#include "model.hpp"

namespace tritserve {

// A page holds kLanes positions of all layers and heads.
class StreamMemory {
 public:
  explicit StreamMemory(const Settings& settings);
  ~StreamMemory();
  StreamMemory(const StreamMemory&) = delete;
  StreamMemory& operator=(const StreamMemory&) = delete;

  // Makes sure that so many pages can be taken. Throws std::bad_alloc.
  void reserve(size_t pages);
  float* take();
  void give_back(float* page);

  // Where a head's keys and values are in a page, in floats.
  size_t offset(size_t layer, size_t head) const { return (layer * heads_ + head) * head_size_; }
  size_t page_bytes() const { return page_size_ * sizeof(float); }

  // Of all streams that there are.
  std::atomic<size_t> bytes{0};

 private:
  const size_t heads_, head_size_, page_size_;
  std::mutex mutex_;
  std::vector<void*> slabs_;
  size_t pages_ = 0;
  std::vector<float*> free_;
};

}  // namespace tritserve
