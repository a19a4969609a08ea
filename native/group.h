// The part of a chunk's images that one thread computes a step of.
#pragma once
#include "engine.h"

namespace levit {

// Pieces into which each thread's share of a step is cut, for others to take.
constexpr int PIECES = 2;

// A group of a chunk's images in one stage, and the part of the work on them that is to be done.
struct Group {
  const levit_engine &engine;
  const Batch &batch;
  const Arena &arena;
  float *scratch;
  int64_t first, images;     // in the chunk
  int share, shares;         // one for each thread
  int piece = 0, pieces = 1; // of the share

  // Number of images whose values lie side by side in a buffer's memory, and the first of ours.
  int64_t neighbours(const levit_buffer &b) const { return b.carried ? batch.images : images; }
  int64_t place(const levit_buffer &b) const { return b.carried ? first : 0; }
  char *memory(const levit_buffer &b) const {
    return (char *)((b.carried ? arena.carried : arena.local).floats() + b.offset * neighbours(b));
  }
  // The first of the group's images in a buffer of rows.
  char *rows(const levit_buffer &b) const { return memory(b) + place(b) * b.rows * b.stride; }
  // The same as a place to write to; a null one for no buffer.
  Store store(int64_t number) const {
    if (number < 0) return {};
    const levit_buffer &b = buffer(number);
    return {rows(b),       b.stride, LANES * size_of(b.dtype), b.dtype, (float)b.inverse_scale,
            (float)b.shift};
  }
  const levit_buffer &buffer(int64_t number) const { return engine.buffer[number]; }
  // The part of so many equal things.
  Range part_of(int64_t count) const { return cut(levit::share(count, share, shares)); }
  // The piece of a share.
  Range cut(Range whole) const {
    const Range piece_of_it = levit::share(whole.end - whole.begin, piece, pieces);
    return {whole.begin + piece_of_it.begin, whole.begin + piece_of_it.end};
  }
};

// Steps that only vision transformers of one width have: run_tokens.cpp.
void run_patches(const Group &group, const levit_step &step);
void run_layer_norm(const Group &group, const levit_step &step, const Layer &layer);
void run_stack(const Group &group, const levit_step &step, const Layer &layer);
void run_rows(const Group &group, const levit_step &step);

} // namespace levit
