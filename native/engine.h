// A program with packed weights, the memory that runs of it use, and its threads.
#pragma once
#include <atomic>

#include "abi.h"
#include "kernels.h"
#include "memory.h"
#include "team.h"

namespace levit {

// Packed weights of a step. Of an attention the tables, its heads' scales and shares as `start`,
// and of each column of the values the `scale`; of a layer norm its bias as `start` and its weight
// as `scale`; of a stack its rows.
struct Layer {
  int64_t dtype = 0; // of the numbers that it multiplies
  float *weight = nullptr, *start = nullptr, *scale = nullptr;
  int64_t depth = 0, columns = 0; // words of a column, or of an attention rows; columns are padded
  int64_t pitch = 0;              // words of a column as it is packed
  int64_t starts = 0, scales = 0; // how many there are of those
  int64_t packed = 0;             // columns that are there already

  Weights weights() const { return {weight, start, scale, pitch}; }
  // Of an attention with so many rows of a table by position, which is behind that of the scores.
  float *positions(int64_t rows) const { return weight + (depth - rows) * columns; }
  float *rest() const { return start + starts / 2; }
};

// Images that run through a stage together: as many as fill tiles and keep weights in use, few
// enough that their values stay in the second level of cache.
struct Stage {
  int64_t first_step = 0, steps = 0, group = 1, local_floats = 0;
};

// Memory of one run on one thread, or on a team.
struct Arena {
  Memory local, carried, scratch;
  Arena *next = nullptr;
  int64_t images = 0, together = 0; // that it is large enough for, in groups and as one group
};

// Arenas that no run is using.
class Arenas {
public:
  // Null where there is no memory.
  Arena *take();
  void give_back(Arena *arena);
  void release_all();

private:
  std::atomic<bool> held_{false}; // for some instructions only
  Arena *first_ = nullptr;
};

} // namespace levit

struct levit_engine {
  levit_input input;
  int64_t buffers, steps, stages;
  levit_buffer *buffer;
  levit_step *step;
  levit::Layer *layer; // of each step
  levit::Stage *stage;
  const levit::Kernels *const *kernels; // by numbers
  levit::Memory weights;
  float pixel_scale[levit::PIXEL_LANES], pixel_shift[levit::PIXEL_LANES]; // for channels in turn
  float tables[levit::MOST_CHANNELS * levit::PIXEL_VALUES]; // of pixels in place of planes
  int64_t chunk;                                            // images that a thread takes at once
  int64_t carried_floats, scratch_floats;
  int64_t slack; // words behind all memory that a kernel may read, of rows that are not there
  int threads;
  levit::Team *team;
  levit::Arenas *arenas;
  // By its number of forks: the process whose threads and arenas these are; 0: nobody's.
  std::atomic<int> process;
};

namespace levit {

// Sizes of layers and stages, and one memory for all weights; false where there is none.
bool plan(levit_engine &engine);

// Images that run through the program, and the place of their values.
struct Batch {
  const char *input;
  float *const *outputs;
  int64_t first, images; // of the caller's
  bool by_tables;        // pixels, where the program takes planes of floats
};

// The part-th of so many equal parts of `count` things.
Range share(int64_t count, int64_t part, int64_t parts);

// Runs a chunk of at most `engine.chunk` images in `arena`: alone, or with the other members of a
// team. `scratch` is the thread's own.
void run_chunk(const levit_engine &engine, const Batch &batch, const Arena &arena, float *scratch,
               Member *member, double *seconds);

} // namespace levit
