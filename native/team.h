// Threads that work on one job together without waiting for each other's presence.
//
// A job is a list of steps, and each step is cut into pieces, some for each thread. A thread takes
// its own pieces first, because their values are in its cache, and then those that others have not
// begun. A step ends when all its pieces are done, whoever did them: a thread that the system has
// taken off its CPU holds up the others only if it was in the middle of a piece, and at the end of
// a job it is not waited for. With barriers instead, one busy process on two CPUs made a network
// take ten times as long (docs/native.md).
#pragma once
#include <atomic>
#include <stdint.h>

#include <pthread.h>

namespace levit {

// A count on a cache line of its own, because threads change it at the same time.
struct alignas(64) Count {
  std::atomic<int> value{0};
};

// Threads wait here for a change of what they have looked at: some microseconds in the CPU, then
// asleep, so that whatever else the machine does has the CPU.
class Event {
public:
  template <class Condition> void wait_until(Condition met);
  // After the change.
  void notify();

private:
  std::atomic<int> number_{0}, sleepers_{0};
};

class Team;

// A thread in a job.
class Member {
public:
  int thread() const { return thread_; }
  int threads() const;

  // True while the job goes on, and then it does not end before `leave`: what belongs to its caller
  // may be read between the two.
  bool enter();
  void leave();
  // Enters, and takes a piece of a step; false where none is left, or the job has ended.
  bool take(int64_t step, int pieces, int &share, int &piece);
  // The piece is done; leaves.
  void finish(int64_t step, int pieces);
  // Until all pieces of a step are done; false where the job has ended.
  bool wait(int64_t step, int pieces);

private:
  friend class Team;
  Member(Team &team, int thread, int job) : team_(team), thread_(thread), job_(job) {}
  Team &team_;
  int thread_, job_;
};

class Team {
public:
  typedef void (*Work)(void *context, Member &member);

  // Starts `threads - 1`; the caller of `run` is the first. Jobs have at most `steps`. False where
  // the system gives no more threads or memory.
  bool start(int threads, int64_t steps);
  // Ends them; no job may be under way.
  void stop();
  int threads() const { return threads_; }

  // One job at a time: whether the caller may run one, until `release`.
  bool try_claim() { return !claimed_.exchange(true, std::memory_order_acquire); }
  void release() { claimed_.store(false, std::memory_order_release); }
  // Calls `work` here, and on the other threads as soon as they come; ends when it returns here.
  void run(Work work, void *context, int64_t steps);

private:
  friend class Member;
  struct alignas(64) Worker {
    std::atomic<bool> busy{false}; // between `enter` and `leave`
    std::atomic<int> cpu{-1};
    Team *team = nullptr;
    int thread = 0;
    pthread_t handle{};
  };
  static void *work(void *worker);
  void spread(Worker &worker);

  std::atomic<bool> claimed_{false};
  int threads_ = 1;
  Worker *workers_ = nullptr;
  Count *taken_ = nullptr; // pieces, of each step and thread's share
  Count *done_ = nullptr;  // pieces, of each step
  Work work_ = nullptr;
  void *context_ = nullptr;
  std::atomic<bool> ends_{false};
  std::atomic<int> first_cpu_{-1};      // of the caller
  alignas(64) std::atomic<int> job_{0}; // odd while one goes on
  alignas(64) Event event_;
};

} // namespace levit
