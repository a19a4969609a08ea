#include "team.h"

#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace levit {

namespace {

// Chosen so that a barrier between two steps of a layer rarely leaves the first loop, and the time
// from one call to the next rarely the second (docs/native.md).
constexpr int PAUSES = 300, YIELDS = 100;

void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

void futex(std::atomic<int> *word, int operation, int value) {
  syscall(SYS_futex, word, operation, value, nullptr, nullptr, 0);
}

} // namespace

void Signal::wait_while(int old) {
  for (int i = 0; i < PAUSES; i++) {
    if (value() != old) return;
    pause_cpu();
  }
  for (int i = 0; i < YIELDS; i++) {
    if (value() != old) return;
    sched_yield();
  }
  // Sequentially consistent on both sides: either `set` sees the sleeper, or the sleeper the value.
  sleepers_.fetch_add(1);
  while (value_.load() == old) futex(&value_, FUTEX_WAIT_PRIVATE, old);
  sleepers_.fetch_sub(1);
}

void Signal::set(int value) {
  value_.store(value);
  if (sleepers_.load()) futex(&value_, FUTEX_WAKE_PRIVATE, INT_MAX);
}

bool Team::start(int threads) {
  threads_ = 1;
  workers_ = (Worker *)calloc((size_t)threads, sizeof(Worker));
  if (!workers_) return false;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  // Kernels need some kilobytes; the default of 8 MB would count as address space.
  pthread_attr_setstacksize(&attributes, 256 << 10);
  for (int i = 1; i < threads; i++) {
    workers_[i] = {this, i, pthread_t{}};
    if (pthread_create(&workers_[i].handle, &attributes, work, &workers_[i])) break;
    threads_ = i + 1;
  }
  pthread_attr_destroy(&attributes);
  if (threads_ == threads) return true;
  stop();
  return false;
}

void Team::stop() {
  job_ = nullptr;
  job_number_.set((int)((unsigned)job_number_.value() + 1));
  for (int i = 1; i < threads_; i++) pthread_join(workers_[i].handle, nullptr);
  free(workers_);
  workers_ = nullptr;
  threads_ = 1;
}

void Team::run(Job job, void *context) {
  job_ = job, context_ = context;
  working_.store(threads_ - 1, std::memory_order_relaxed);
  const int number = finished_.value();
  job_number_.set((int)((unsigned)job_number_.value() + 1));
  job(context, 0, threads_);
  if (threads_ > 1) finished_.wait_while(number);
}

void Team::barrier() {
  const int number = passed_.value();
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    passed_.set((int)((unsigned)number + 1));
  } else {
    passed_.wait_while(number);
  }
}

void *Team::work(void *argument) {
  const Worker &worker = *(const Worker *)argument;
  Team &team = *worker.team;
  // Jobs are counted from the start of the team, before its first.
  for (int number = 0;; number = (int)((unsigned)number + 1)) {
    team.job_number_.wait_while(number);
    if (!team.job_) return nullptr;
    team.job_(team.context_, worker.thread, team.threads_);
    if (team.working_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      team.finished_.set((int)((unsigned)team.finished_.value() + 1));
    }
  }
}

} // namespace levit
