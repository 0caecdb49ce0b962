#include "fork.hpp"

#include <pthread.h>

#include <new>
#include <vector>

namespace tritserve {
namespace {

// A fork holds all of them, and none comes or goes meanwhile.
struct All {
  std::mutex mutex;
  std::vector<ForkMutex*> mutexes;
};

All& all();

void hold_all() {
  all().mutex.lock();
  for (ForkMutex* mutex : all().mutexes) mutex->lock();
}

void release_all() {
  for (ForkMutex* mutex : all().mutexes) mutex->unlock();
  all().mutex.unlock();
}

All& all() {
  // Never destroyed: a process may fork while it ends.
  static All& instance = *[] {
    if (pthread_atfork(hold_all, release_all, release_all) != 0) throw std::bad_alloc();
    return new All;
  }();
  return instance;
}

}  // namespace

ForkMutex::ForkMutex() {
  const std::lock_guard lock(all().mutex);
  all().mutexes.push_back(this);
}

ForkMutex::~ForkMutex() {
  const std::lock_guard lock(all().mutex);
  std::erase(all().mutexes, this);
}

}  // namespace tritserve
