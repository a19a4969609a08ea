// Threads that work on one job together, and wait for the next without keeping a CPU for long.
#pragma once
#include <atomic>

#include <pthread.h>

namespace levit {

// A number that threads wait on until it changes: some microseconds in the CPU, then giving the CPU
// to whatever else runs, then asleep.
class Signal {
public:
  int value() const { return value_.load(std::memory_order_acquire); }
  void wait_while(int old);
  void set(int value);

private:
  std::atomic<int> value_{0}, sleepers_{0};
};

class Team {
public:
  typedef void (*Job)(void *context, int thread, int threads);

  // Starts `threads - 1`; the caller of `run` is the first. False where the system gives no more.
  bool start(int threads);
  // Ends them; no job may be under way.
  void stop();
  int threads() const { return threads_; }

  // One job at a time: `try_claim` says whether the caller may run one, until `release`.
  bool try_claim() { return !claimed_.exchange(true, std::memory_order_acquire); }
  void release() { claimed_.store(false, std::memory_order_release); }
  void run(Job job, void *context);
  // Until all of the running job's threads have come here.
  void barrier();

private:
  struct Worker {
    Team *team;
    int thread;
    pthread_t handle;
    std::atomic<int> cpu;
  };
  static void *work(void *worker);
  void spread(Worker &worker);

  std::atomic<bool> claimed_{false};
  Worker *workers_ = nullptr;
  int threads_ = 1;
  Job job_ = nullptr; // null tells the threads to end
  void *context_ = nullptr;
  std::atomic<int> first_cpu_{-1}; // of the caller
  alignas(64) Signal job_number_;
  alignas(64) Signal finished_; // jobs
  alignas(64) Signal passed_;   // barriers
  alignas(64) std::atomic<int> working_{0};
  alignas(64) std::atomic<int> arrived_{0};
};

} // namespace levit
