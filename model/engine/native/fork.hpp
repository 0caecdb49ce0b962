// A mutex that a fork waits for. A child has only the thread that forked: a mutex that another one
// held would stay locked there. Whoever has such a mutex waits for nothing that the forking thread
// may hold, such as Python's lock.
#pragma once

#include <mutex>

namespace tritserve {

class ForkMutex {
 public:
  ForkMutex();
  ~ForkMutex();
  ForkMutex(const ForkMutex&) = delete;
  ForkMutex& operator=(const ForkMutex&) = delete;

  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

}  // namespace tritserve
