#include "pool.hpp"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <stdexcept>
#include <string>
#include <system_error>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tritserve {
namespace {

// Long enough for the next phase of a forward pass, short enough to leave the core to others.
constexpr int kSpins = 2000;
// Within a pass, a thread that slept would be woken on the processor of the one it waited for. It
// gives way for about a millisecond instead.
constexpr int kYields = 2000;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

template <typename T>
void wait_while(const std::atomic<T>& value, T old, int yields = 0) {
  for (int i = 0; i < kSpins + yields; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    if (i < kSpins) {
      pause();
    } else {
      sched_yield();
    }
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

}  // namespace

void Barrier::wait() {
  const unsigned generation = generation_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
  } else {
    wait_while(generation_, generation, kYields);
  }
}

struct Pool::Shared {
  std::atomic<unsigned> started{0};
  std::atomic<int> running{0};
  Function function = nullptr;  // null: the threads end
  const void* context = nullptr;
  pid_t process = 0;  // none, until all threads are there

  void work(int rank) {
    for (unsigned seen = 0;; ++seen) {
      wait_while(started, seen);
      if (!function) return;
      function(context, rank);
      if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) running.notify_one();
    }
  }
};

Pool::Pool(int threads) : size_(threads) { spawn(); }

void Pool::spawn() {
  shared_ = std::make_unique<Shared>();
  try {
    for (int rank = 1; rank < size_; ++rank)
      threads_.emplace_back([shared = shared_.get(), rank] { shared->work(rank); });
  } catch (const std::system_error& error) {
    const auto started = threads_.size();
    stop();
    throw std::runtime_error("of " + std::to_string(size_ - 1) + " threads beside the caller's, " +
                             std::to_string(started) + " could be started: " + error.what());
  }
  shared_->process = getpid();
  left_to_caller_ = -1;
}

void Pool::stop() {
  shared_->function = nullptr;
  shared_->started.fetch_add(1, std::memory_order_release);
  shared_->started.notify_all();
  for (auto& thread : threads_) thread.join();
  threads_.clear();
}

// Linux may wake a thread on the processor of the one that wakes it, which is busy, and move it
// only milliseconds later: longer than a forward pass.
void Pool::leave_processor_to_caller() {
  if (size_ == 1) return;
  const int here = sched_getcpu();
  if (here == left_to_caller_) return;
  cpu_set_t processors;
  if (here < 0 || sched_getaffinity(0, sizeof processors, &processors) != 0) return;
  if (CPU_COUNT(&processors) < size_) return;
  CPU_CLR(static_cast<size_t>(here), &processors);
  for (auto& thread : threads_)
    pthread_setaffinity_np(thread.native_handle(), sizeof processors, &processors);
  left_to_caller_ = here;
}

void Pool::start(Function function, const void* context) {
  if (size_ > 1 && shared_->process != getpid()) {
    // A forked child has none of its parent's threads: what stands for them can only be leaked.
    new std::vector<std::thread>(std::move(threads_));
    shared_.release();
    threads_.clear();
    spawn();
  }
  leave_processor_to_caller();
  shared_->function = function;
  shared_->context = context;
  shared_->running.store(size_ - 1, std::memory_order_relaxed);
  shared_->started.fetch_add(1, std::memory_order_release);
  shared_->started.notify_all();
  function(context, 0);
  for (int left; (left = shared_->running.load(std::memory_order_acquire)) != 0;)
    wait_while(shared_->running, left, kYields);
}

Pool::~Pool() {
  if (shared_->process != getpid()) {
    new std::vector<std::thread>(std::move(threads_));
    shared_.release();
    return;
  }
  stop();
}

}  // namespace tritserve
