#include "team.h"

#include <new>

#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace levit {

namespace {

// Longer than a step's last piece takes, and than a caller's way from one call to the next.
constexpr int64_t SPIN_NS = 30000;

void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

int64_t now_ns() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return int64_t(time.tv_sec) * 1000000000 + time.tv_nsec;
}

void futex(std::atomic<int> *word, int operation, int value) {
  syscall(SYS_futex, word, operation, value, nullptr, nullptr, 0);
}

template <class T> T *array_of(int64_t count) {
  T *values = (T *)aligned_alloc(alignof(T), (size_t)count * sizeof(T));
  for (int64_t i = 0; values && i < count; i++) new (values + i) T();
  return values;
}

} // namespace

template <class Condition> void Event::wait_until(Condition met) {
  const int64_t start = now_ns();
  do {
    for (int i = 0; i < 50; i++) {
      if (met()) return;
      pause_cpu();
    }
  } while (now_ns() - start < SPIN_NS);
  // Sequentially consistent on both sides: either `notify` sees the sleeper, or the sleeper the
  // change.
  sleepers_.fetch_add(1);
  for (;;) {
    const int number = number_.load();
    if (met()) break;
    futex(&number_, FUTEX_WAIT_PRIVATE, number);
  }
  sleepers_.fetch_sub(1);
}

void Event::notify() {
  if (!sleepers_.load()) return;
  number_.fetch_add(1);
  futex(&number_, FUTEX_WAKE_PRIVATE, INT_MAX);
}

int Member::threads() const { return team_.threads_; }

bool Member::enter() {
  if (!thread_) return true;
  team_.workers_[thread_].busy.store(true);
  if (team_.job_.load() == job_) return true;
  leave();
  return false;
}

void Member::leave() {
  if (thread_) team_.workers_[thread_].busy.store(false, std::memory_order_release);
}

bool Member::take(int64_t step, int pieces, int &share, int &piece) {
  if (!enter()) return false;
  for (int i = 0; i < team_.threads_; i++) {
    share = (thread_ + i) % team_.threads_;
    std::atomic<int> &taken = team_.taken_[step * team_.threads_ + share].value;
    if (taken.load(std::memory_order_relaxed) >= pieces) continue;
    piece = taken.fetch_add(1, std::memory_order_relaxed);
    if (piece < pieces) return true;
  }
  leave();
  return false;
}

void Member::finish(int64_t step, int pieces) {
  const int before = team_.done_[step].value.fetch_add(1);
  const bool last = before + 1 == pieces * team_.threads_;
  leave();
  if (last) team_.event_.notify();
}

bool Member::wait(int64_t step, int pieces) {
  const int all = pieces * team_.threads_;
  team_.event_.wait_until(
      [&] { return team_.done_[step].value.load() >= all || team_.job_.load() != job_; });
  return team_.job_.load() == job_;
}

bool Team::start(int threads, int64_t steps) {
  threads_ = 1;
  if (threads == 1) return true;
  workers_ = array_of<Worker>(threads);
  taken_ = array_of<Count>(steps * threads);
  done_ = array_of<Count>(steps);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  // Kernels need some kilobytes; the default of 8 MB would count as address space.
  pthread_attr_setstacksize(&attributes, 256 << 10);
  for (int i = 1; workers_ && taken_ && done_ && i < threads; i++) {
    workers_[i].team = this;
    workers_[i].thread = i;
    if (pthread_create(&workers_[i].handle, &attributes, work, &workers_[i])) break;
    threads_ = i + 1;
  }
  pthread_attr_destroy(&attributes);
  if (threads_ == threads) return true;
  stop();
  return false;
}

void Team::stop() {
  ends_.store(true);
  event_.notify();
  for (int i = 1; i < threads_; i++) pthread_join(workers_[i].handle, nullptr);
  free(workers_);
  free(taken_);
  free(done_);
  workers_ = nullptr, taken_ = done_ = nullptr, threads_ = 1;
}

void Team::run(Work work, void *context, int64_t steps) {
  for (int64_t i = 0; i < steps * threads_; i++)
    taken_[i].value.store(0, std::memory_order_relaxed);
  for (int64_t i = 0; i < steps; i++) done_[i].value.store(0, std::memory_order_relaxed);
  work_ = work, context_ = context;
  first_cpu_.store(sched_getcpu(), std::memory_order_relaxed);
  const int job = job_.load(std::memory_order_relaxed) + 1;
  job_.store(job);
  event_.notify();
  Member member(*this, 0, job);
  work(context, member);
  job_.store((int)((unsigned)job + 1));
  event_.notify();
  // A thread that has entered finds no piece, and leaves at once.
  for (int i = 1; i < threads_; i++) {
    while (workers_[i].busy.load()) sched_yield();
  }
}

// Linux may wake a thread on the CPU of another that waits for it, and leave them there together:
// each is at work or spins, so neither looks as if it could be moved. A thread that finds another
// of its team on its CPU goes to one where none is.
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
  for (int seen = 0;;) {
    int job;
    team.event_.wait_until([&] {
      job = team.job_.load();
      return (job != seen && job % 2) || team.ends_.load();
    });
    if (team.ends_.load()) return nullptr;
    seen = job;
    Member member(team, worker.thread, job);
    if (!member.enter()) continue;
    const Work work = team.work_;
    void *context = team.context_;
    member.leave();
    team.spread(worker);
    work(context, member);
  }
}

} // namespace levit
