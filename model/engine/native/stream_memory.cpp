#include "stream_memory.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <new>

namespace tritserve {
namespace {

constexpr size_t kSlabBytes = size_t{1} << 21;  // a huge page of the processor

}  // namespace

StreamMemory::StreamMemory(const Settings& s)
    : heads_(s.key_value_heads),
      head_size_(page_head_size(s.head_dim())),
      page_size_(s.num_layers * heads_ * head_size_) {}

StreamMemory::~StreamMemory() {
  for (void* slab : slabs_) std::free(slab);
}

void StreamMemory::reserve(size_t pages) {
  const std::lock_guard lock(mutex_);
  while (free_.size() < pages) {
    const size_t in_slab = std::max<size_t>(1, kSlabBytes / page_bytes());
    const size_t bytes = padded(in_slab * page_bytes(), kSlabBytes);
    slabs_.reserve(slabs_.size() + 1);
    free_.reserve(pages_ + in_slab);  // for all that may be given back
    void* slab = std::aligned_alloc(kSlabBytes, bytes);
    if (!slab) throw std::bad_alloc();
    // A hint: thousands of small pages would not be found without a search, each time.
    madvise(slab, bytes, MADV_HUGEPAGE);
    slabs_.push_back(slab);
    pages_ += in_slab;
    for (size_t i = 0; i < in_slab; ++i)
      free_.push_back(static_cast<float*>(slab) + i * page_size_);
  }
}

float* StreamMemory::take() {
  const std::lock_guard lock(mutex_);
  float* page = free_.back();
  free_.pop_back();
  bytes += page_bytes();
  return page;
}

void StreamMemory::give_back(float* page) {
  const std::lock_guard lock(mutex_);
  free_.push_back(page);
  bytes -= page_bytes();
}

}  // namespace tritserve
