// Memory for vectors: aligned, zero-filled, and kept once it has grown.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace tritserve {

template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t count) { grow(count); }

  // At least `count` elements; what the buffer held is lost if it has to grow.
  void grow(size_t count) {
    if (count <= count_) return;
    const size_t bytes = (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    data_.reset();
    count_ = 0;
    data_.reset(static_cast<T*>(std::aligned_alloc(kAlignment, bytes)));
    if (!data_) throw std::bad_alloc();
    std::memset(static_cast<void*>(data_.get()), 0, bytes);
    count_ = count;
  }

  void zero() { std::memset(static_cast<void*>(data_.get()), 0, count_ * sizeof(T)); }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  size_t count() const { return count_; }
  T& operator[](size_t i) { return data_.get()[i]; }

 private:
  static constexpr size_t kAlignment = 64;
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
  size_t count_ = 0;
};

}  // namespace tritserve
