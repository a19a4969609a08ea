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
    workers_[i].team = this;
    workers_[i].thread = i;
    workers_[i].cpu.store(-1, std::memory_order_relaxed);
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
  first_cpu_.store(sched_getcpu(), std::memory_order_relaxed);
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

// Linux may wake a thread on the CPU of another that waits for it, and leave them there together: each
// is at work or spins, so neither looks as if it could be moved, and a job takes twice its time for
// seconds on end. A thread that finds another of its team on its CPU goes to one where none is.
void Team::spread(Worker &worker) {
  const int here = sched_getcpu();
  worker.cpu.store(here, std::memory_order_relaxed);
  bool alone = here != first_cpu_.load(std::memory_order_relaxed);
  for (int i = 1; i < worker.thread; i++) {
    alone = alone && here != workers_[i].cpu.load(std::memory_order_relaxed);
  }
  cpu_set_t allowed, unused;
  if (alone || sched_getaffinity(0, sizeof allowed, &allowed)) return;
  unused = allowed;
  const int first = first_cpu_.load(std::memory_order_relaxed);
  if (first >= 0) CPU_CLR((size_t)first, &unused);
  for (int i = 1; i < threads_; i++) {
    const int cpu = workers_[i].cpu.load(std::memory_order_relaxed);
    if (cpu >= 0) CPU_CLR((size_t)cpu, &unused);
  }
  if (!CPU_COUNT(&unused)) return;
  sched_setaffinity(0, sizeof unused, &unused); // moves it at once
  worker.cpu.store(sched_getcpu(), std::memory_order_relaxed);
  sched_setaffinity(0, sizeof allowed, &allowed);
}

void *Team::work(void *argument) {
  Worker &worker = *(Worker *)argument;
  Team &team = *worker.team;
  // Jobs are counted from the start of the team, before its first.
  for (int number = 0;; number = (int)((unsigned)number + 1)) {
    team.job_number_.wait_while(number);
    if (!team.job_) return nullptr;
    team.spread(worker);
    team.job_(team.context_, worker.thread, team.threads_);
    if (team.working_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      team.finished_.set((int)((unsigned)team.finished_.value() + 1));
    }
  }
}

} // namespace levit
