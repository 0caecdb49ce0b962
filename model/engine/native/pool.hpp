// A persistent pool of threads that all run the same function, and the barrier they meet at.
#pragma once

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

namespace tritserve {

class Barrier {
 public:
  explicit Barrier(int size) : size_(size) {}
  void wait();

 private:
  const int size_;
  std::atomic<int> arrived_{0};
  std::atomic<unsigned> generation_{0};
};

class Pool {
 public:
  // Throws std::runtime_error if the threads cannot be started.
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int size() const { return size_; }

  // Calls job(rank) with ranks 0 .. size() - 1 at once, rank 0 in the calling thread. One caller
  // at a time. The job must not throw. In a forked child the first call starts the child's own
  // threads, and throws as the constructor does.
  template <typename Job>
  void run(const Job& job) {
    start([](const void* context, int rank) { (*static_cast<const Job*>(context))(rank); }, &job);
  }

 private:
  using Function = void (*)(const void*, int);
  struct Shared;

  void start(Function function, const void* context);
  void spawn();
  void stop();
  void leave_processor_to_caller();

  const int size_;
  std::unique_ptr<Shared> shared_;
  std::vector<std::thread> threads_;
  int left_to_caller_ = -1;  // a processor
};

}  // namespace tritserve
