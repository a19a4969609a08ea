// Engines: opened, packed, run by any number of callers, and closed; the functions of abi.h.
#include "engine.h"

#include <new>

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu.h"
#include "pack.h"

namespace levit {

namespace {

// Forks from the first process to this one: threads and arenas belong to one of them. Numbers of
// processes are no good for that: a container's first child may have its parent's.
std::atomic<int> forks{1};

__attribute__((constructor)) void count_forks() {
  pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1); });
}

// `new` is the C++ library's, which this library does without.
template <class T> T *make() {
  void *memory = aligned_alloc(alignof(T) < 64 ? 64 : alignof(T), (sizeof(T) + 63) / 64 * 64);
  return memory ? new (memory) T() : nullptr;
}

template <class T> void destroy(T *value) {
  if (value) value->~T();
  free(value);
}

template <class T> T *copied(const T *values, int64_t count) {
  T *copy = (T *)calloc((size_t)count + 1, sizeof(T));
  if (copy && values) memcpy(copy, values, (size_t)count * sizeof(T));
  return copy;
}

// Results too small for float32's normal range take a CPU a hundred cycles each; they become 0, in
// here only: the caller's setting comes back.
class FlushToZero {
public:
#if defined(__x86_64__)
  FlushToZero() : before_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(before_ | 0x8040); }
  ~FlushToZero() { __builtin_ia32_ldmxcsr(before_); }
#elif defined(__aarch64__)
  FlushToZero() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(before_));
    __asm__ volatile("msr fpcr, %0" : : "r"(before_ | (1ull << 24)));
  }
  ~FlushToZero() { __asm__ volatile("msr fpcr, %0" : : "r"(before_)); }
#endif

private:
  unsigned long before_ = 0;
};

} // namespace

Arena *Arenas::take() {
  while (held_.exchange(true, std::memory_order_acquire)) sched_yield();
  Arena *arena = first_;
  if (arena) first_ = arena->next;
  held_.store(false, std::memory_order_release);
  return arena ? arena : make<Arena>();
}

void Arenas::give_back(Arena *arena) {
  while (held_.exchange(true, std::memory_order_acquire)) sched_yield();
  arena->next = first_;
  first_ = arena;
  held_.store(false, std::memory_order_release);
}

void Arenas::release_all() {
  while (first_) {
    Arena *next = first_->next;
    destroy(first_);
    first_ = next;
  }
}

namespace {

// Makes an arena large enough for so many images at once, in groups or as one group.
bool fit(const levit_engine &engine, Arena &arena, int64_t images, int64_t together) {
  if (images > arena.images || together > arena.together) {
    images = images > arena.images ? images : arena.images;
    together = together > arena.together ? together : arena.together;
    int64_t local = 0;
    for (int64_t s = 0; s < engine.stages; s++) {
      const Stage &stage = engine.stage[s];
      const int64_t grouped = images < stage.group ? images : stage.group;
      const int64_t floats = stage.local_floats * (grouped > together ? grouped : together);
      if (floats > local) local = floats;
    }
    const int64_t carried = engine.carried_floats * (images > together ? images : together);
    arena.images = arena.together = 0;
    if (!arena.local.allocate((size_t)(local + engine.slack))) return false;
    if (!arena.carried.allocate((size_t)(carried + engine.slack))) return false;
    arena.images = images, arena.together = together;
  }
  return arena.scratch.floats() ||
         arena.scratch.allocate((size_t)(engine.scratch_floats + engine.slack));
}

// Arenas of one run, one a thread.
class Borrowed {
public:
  explicit Borrowed(levit_engine &engine) : engine_(engine) {}
  ~Borrowed() {
    for (int i = 0; i < count_; i++) engine_.arenas->give_back(arena_[i]);
    if (arena_ != &single_) free(arena_);
  }
  bool take(int count, int64_t images, int64_t together) {
    if (count > 1) arena_ = (Arena **)calloc((size_t)count, sizeof(Arena *));
    for (int i = 0; arena_ && i < count; i++) {
      if (!(arena_[i] = engine_.arenas->take())) return false;
      count_ = i + 1;
      if (!fit(engine_, *arena_[i], images, i ? 0 : together)) return false;
    }
    return arena_;
  }
  Arena *const *all() const { return arena_; }

private:
  levit_engine &engine_;
  Arena *single_ = nullptr, **arena_ = &single_;
  int count_ = 0;
};

struct Run {
  const levit_engine *engine;
  Batch batch;
  Arena *const *arenas;
  double *seconds;
};

// Images [first, end) of a run, as many at once as weights are read for.
void run_alone(const Run &run, const Arena &arena, Range images, double *seconds) {
  Batch batch = run.batch;
  const int64_t chunk = run.engine->chunk;
  for (batch.first = images.begin; batch.first < images.end; batch.first += batch.images) {
    batch.images = images.end - batch.first < chunk ? images.end - batch.first : chunk;
    run_chunk(*run.engine, batch, arena, arena.scratch.floats(), nullptr, seconds);
  }
}

// Whole images on each thread: a piece is as many as it takes at once.
void share_images(void *context, Member &member) {
  if (!member.enter()) return;
  const FlushToZero flush;
  const Run run = *(const Run *)context;
  const Arena &arena = *run.arenas[member.thread()];
  member.leave();
  const int64_t each = run.batch.images / member.threads(), chunk = run.engine->chunk;
  const int pieces = (int)((each + chunk - 1) / chunk);
  int owner, piece;
  while (member.take(0, pieces, owner, piece)) {
    const int64_t first = run.batch.first + owner * each;
    const Range images = share(each, piece, pieces);
    run_alone(run, arena, {first + images.begin, first + images.end}, nullptr);
    member.finish(0, pieces);
  }
  member.wait(0, pieces);
}

// All threads on the same images.
void share_steps(void *context, Member &member) {
  if (!member.enter()) return;
  const FlushToZero flush;
  const Run run = *(const Run *)context;
  const Arena &arena = *run.arenas[0];
  float *scratch = run.arenas[member.thread()]->scratch.floats();
  member.leave();
  run_chunk(*run.engine, run.batch, arena, scratch, &member,
            member.thread() ? nullptr : run.seconds);
}

// In a forked child neither the threads nor the arenas that they had are there: new ones are made,
// once, by whichever of the child's threads comes first.
int start_here(levit_engine &engine) {
  const int here = forks.load(std::memory_order_relaxed);
  for (;;) {
    int seen = engine.process.load(std::memory_order_acquire);
    if (seen == here) return LEVIT_OK;
    if (seen == -here || !engine.process.compare_exchange_strong(seen, -here)) {
      sched_yield();
      continue;
    }
    Team *team = make<Team>();
    Arenas *arenas = make<Arenas>();
    const bool started = team && arenas && team->start(engine.threads, engine.steps);
    if (!started) {
      destroy(team);
      destroy(arenas);
      engine.process.store(0, std::memory_order_release);
      return team && arenas ? LEVIT_NO_THREADS : LEVIT_NO_MEMORY;
    }
    engine.team = team, engine.arenas = arenas; // those of the parent stay as they are
    engine.process.store(here, std::memory_order_release);
  }
}

int run(levit_engine &engine, const void *input, int64_t images, float *const *outputs, int how,
        double *seconds) {
  const int status = start_here(engine);
  if (status != LEVIT_OK) return status;
  Team &team = *engine.team;
  // Callers that come while the team works run on their own threads.
  const bool claimed = !(how & LEVIT_ALONE) && team.threads() > 1 && team.try_claim();
  const int threads = claimed ? team.threads() : 1;
  // As many images as all threads can take; those that are left over are divided within steps: of
  // 33 on 4 threads each takes 8, and then all of them the last.
  const int64_t divided = seconds && threads > 1 ? 0 : images / threads * threads;
  const int64_t left = images - divided, each = divided / threads;
  const int64_t alone = each < engine.chunk ? each : engine.chunk;
  const int64_t together = left < engine.chunk ? left : engine.chunk;
  Borrowed arenas(engine);
  const bool fits = arenas.take(threads, alone, together);
  if (fits) {
    const Batch batch{(const char *)input, outputs, 0, divided, (how & LEVIT_PIXELS) != 0};
    Run part{&engine, batch, arenas.all(), seconds};
    if (!claimed) {
      const FlushToZero flush;
      run_alone(part, **arenas.all(), {0, images}, seconds);
    } else {
      if (divided) team.run(share_images, &part, 1);
      for (part.batch.first = divided; part.batch.first < images; part.batch.first += together) {
        const int64_t rest = images - part.batch.first;
        part.batch.images = rest < together ? rest : together;
        team.run(share_steps, &part, engine.steps);
      }
    }
  }
  if (claimed) team.release();
  return fits ? LEVIT_OK : LEVIT_NO_MEMORY;
}

} // namespace

} // namespace levit

using namespace levit;

extern "C" {

int levit_abi() { return LEVIT_ABI; }
int levit_isa_count() { return isa_count(); }
const char *levit_isa_name(int number) { return isa(number).name; }
int levit_isa_usable(int number) { return is_usable(number); }

int levit_isa_multiplies(int number, int dtype) { return isa(number).kernels[dtype] != nullptr; }

double levit_isa_peak(int number, int dtype, double seconds) {
  timespec start, end;
  double done = 0, passed = 0;
  clock_gettime(CLOCK_MONOTONIC, &start);
  while (passed < seconds) {
    done += isa(number).kernels[dtype]->multiply_adds(1 << 16);
    clock_gettime(CLOCK_MONOTONIC, &end);
    passed = (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
  }
  return 2 * done / passed;
}

levit_engine *levit_open(const levit_program *program, int number, int threads) {
  levit_engine *engine = make<levit_engine>();
  if (!engine) return nullptr;
  engine->input = program->input;
  engine->buffers = program->buffers, engine->steps = program->steps;
  engine->stages = program->stages;
  engine->buffer = copied(program->buffer, program->buffers);
  engine->step = copied(program->step, program->steps);
  engine->layer = copied<Layer>(nullptr, program->steps);
  engine->stage = copied<Stage>(nullptr, program->stages);
  engine->kernels = isa(number).kernels;
  engine->threads = threads;
  if (engine->buffer && engine->step && engine->layer && engine->stage && plan(*engine)) {
    return engine;
  }
  levit_close(engine);
  return nullptr;
}

int levit_start(levit_engine *engine) { return start_here(*engine); }

int levit_pack(levit_engine *engine, int64_t number, int64_t width, const void *weight,
               const void *bias, const float *scale, const float *offset) {
  const levit_step &step = engine->step[number];
  Layer &layer = engine->layer[number];
  const float *const first = (const float *)weight, *const second = (const float *)bias;
  switch (step.kind) {
  case LEVIT_ATTENTION:
    pack_attention(*engine, step, layer, {first, second, scale, offset});
    return LEVIT_OK;
  case LEVIT_LAYER_NORM: pack_norm(*engine, step, layer, first, second); return LEVIT_OK;
  case LEVIT_STACK: pack_rows(*engine, step, layer, first); return LEVIT_OK;
  }
  const bool project = step.kind == LEVIT_PROJECT;
  const int64_t heads = project ? step.heads : 1;
  const int64_t count = project ? width : engine->buffer[step.target].columns;
  const int64_t values = values_of(*engine, step) * size_of(layer.dtype);
  for (int64_t head = 0; head < heads; head++) { // each begins at a multiple of 16 columns
    const int64_t row = head * count;
    const Columns columns{count, (const char *)weight + row * values,
                          bias ? (const char *)bias + row * 4 : nullptr,
                          scale ? scale + row : nullptr};
    if (!pack_columns(*engine, step, layer, columns)) return LEVIT_NO_MEMORY;
  }
  return LEVIT_OK;
}

void levit_pack_positions(levit_engine *engine, int64_t number, const float *table,
                          const float *rest) {
  pack_positions(*engine, engine->step[number], engine->layer[number], table, rest);
}

void levit_set_pixels(levit_engine *engine, const float *scale, const float *shift) {
  for (int64_t i = 0; i < PIXEL_LANES; i++) {
    engine->pixel_scale[i] = scale[i % engine->input.channels];
    engine->pixel_shift[i] = shift[i % engine->input.channels];
  }
}

void levit_set_tables(levit_engine *engine, const float *tables) {
  const int64_t count = engine->input.channels * PIXEL_VALUES;
  for (int64_t i = 0; i < count; i++) engine->tables[i] = tables[i];
}

int levit_run(levit_engine *engine, const void *input, int64_t images, float *const *outputs,
              int how) {
  return run(*engine, input, images, outputs, how, nullptr);
}

int levit_profile(levit_engine *engine, const void *input, int64_t images, float *const *outputs,
                  double *seconds) {
  return run(*engine, input, images, outputs, 0, seconds);
}

void levit_close(levit_engine *engine) {
  if (!engine) return;
  // In a child that never ran, the team's threads are the parent's.
  if (engine->team && engine->process.load() == forks.load()) {
    engine->team->stop();
    engine->arenas->release_all();
    destroy(engine->team);
    destroy(engine->arenas);
  }
  free(engine->buffer);
  free(engine->step);
  free(engine->layer);
  free(engine->stage);
  destroy(engine);
}
}
