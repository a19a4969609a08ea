// What follows from a program before it runs: sizes of layers, and groups of images for each stage.
#include "engine.h"

namespace levit {

namespace {

int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

int64_t dtype_of(const levit_engine &engine, int64_t buffer) {
  return buffer < 0 ? engine.input.dtype : engine.buffer[buffer].dtype;
}

void size_layer(const levit_engine &engine, const levit_step &step, Layer &layer) {
  const levit_buffer *buffer = engine.buffer;
  const bool attention = step.kind == LEVIT_ATTENTION;
  layer.dtype = dtype_of(engine, attention ? step.queries.buffer : step.source);
  switch (step.kind) {
  case LEVIT_CONV: {
    const int64_t channels = step.source < 0 ? engine.input.channels : buffer[step.source].columns;
    layer.depth = 9 * words(channels, layer.dtype);
    break;
  }
  case LEVIT_LINEAR:
  case LEVIT_PROJECT: layer.depth = words(buffer[step.source].columns, layer.dtype); break;
  case LEVIT_ATTENTION: { // one row where there is no table
    const int64_t rows = step.heads * buffer[step.target].rows;
    layer.depth = (step.has_table ? rows : 1) + (step.has_positions ? rows : 0);
    layer.pitch = layer.depth;
    layer.columns = padded(buffer[step.keys.buffer].rows);
    layer.starts = 2 * padded(step.heads); // scales of scores, and shares that positions leave
    layer.scales = 2 * step.heads * padded(step.values.width); // and offsets
    return;
  }
  case LEVIT_STACK:
    layer.depth = buffer[step.target].rows - (step.source < 0 ? 0 : buffer[step.source].rows);
    layer.pitch = layer.depth;
    layer.columns = padded(buffer[step.target].columns);
    return;
  case LEVIT_LAYER_NORM: break;
  default: return;
  }
  const int64_t step_words = engine.kernels[layer.dtype]->depth_step;
  layer.pitch = (layer.depth + step_words - 1) / step_words * step_words;
  layer.columns = layer.starts = layer.scales = padded(buffer[step.target].columns);
}

int64_t scratch_of(const levit_engine &engine, const levit_step &step) {
  if (step.kind == LEVIT_CONV && step.source < 0) {
    // Three rows of pixels, and one of floats before they become other numbers.
    const levit_input &input = engine.input;
    return 3 * padded((input.width + 1) * words(input.channels, input.dtype)) +
           padded(input.width * input.channels) + LANES;
  }
  // A row of floats before they become other numbers.
  if (step.kind == LEVIT_PATCHES) return padded(engine.buffer[step.target].columns);
  if (step.kind == LEVIT_ROWS) return padded(engine.buffer[step.source].columns);
  if (step.kind != LEVIT_ATTENTION) return 0;
  // Keys and values in panels with the starts of their sums, and a tile of scores.
  const int64_t keys = padded(engine.buffer[step.keys.buffer].rows);
  const int64_t columns = padded(step.keys.width) + padded(step.values.width) + 1;
  const int64_t rows = engine.kernels[dtype_of(engine, step.queries.buffer)]->queries;
  // Queries are gathered where there are tiles.
  return columns * keys + padded(step.values.width) + rows * (keys + 16 + padded(step.keys.width)) +
         LANES;
}

// 49 tokens run four images at a time, 16 tokens eight: 196 and 128 rows.
int64_t group_for(int64_t rows) {
  int64_t group = 1;
  while (group < 8 && group * rows < 112) group *= 2;
  return group;
}

} // namespace

bool plan(levit_engine &engine) {
  int64_t total = 0, rows = 0;
  engine.chunk = 1, engine.slack = MOST_TILE_ROWS * 64, engine.scratch_floats = 0,
  engine.carried_floats = 0;
  for (int64_t s = 0; s < engine.stages; s++) engine.stage[s] = Stage();
  for (int64_t i = 0; i < engine.steps; i++) {
    const levit_step &step = engine.step[i];
    Layer &layer = engine.layer[i];
    size_layer(engine, step, layer);
    total += layer.pitch * layer.columns + layer.starts + layer.scales;
    engine.scratch_floats = larger(engine.scratch_floats, scratch_of(engine, step));
    Stage &stage = engine.stage[step.stage];
    if (!stage.steps++) stage.first_step = i, rows = 0;
    const bool product = step.kind == LEVIT_LINEAR || step.kind == LEVIT_PROJECT;
    if (product) rows = larger(rows, engine.buffer[step.source].rows);
    stage.group = rows ? group_for(rows) : 1;
    const int64_t used[] = {step.source,         step.target,      step.residual,     step.copy,
                            step.queries.buffer, step.keys.buffer, step.values.buffer};
    for (int64_t number : used) {
      if (number < 0) continue;
      const levit_buffer &buffer = engine.buffer[number];
      const int64_t end = buffer.offset + buffer.rows * buffer.stride / 4;
      int64_t &most = buffer.carried ? engine.carried_floats : stage.local_floats;
      most = larger(most, end);
      engine.slack = larger(engine.slack, MOST_TILE_ROWS * buffer.stride * 2 / 4);
    }
    // Tables too are read in whole tiles.
    if (step.kind == LEVIT_ATTENTION) {
      engine.slack = larger(engine.slack, MOST_TILE_ROWS * layer.columns);
    }
  }
  for (int64_t s = 0; s < engine.stages; s++) {
    engine.chunk = larger(engine.chunk, engine.stage[s].group);
  }
  if (!engine.weights.allocate((size_t)(total + engine.slack))) return false;
  float *next = engine.weights.floats();
  for (int64_t i = 0; i < engine.steps; i++) {
    Layer &layer = engine.layer[i];
    layer.weight = next;
    layer.start = next + layer.pitch * layer.columns;
    layer.scale = layer.start + layer.starts;
    next = layer.scale + layer.scales;
  }
  return true;
}

} // namespace levit
