// A chunk of images through all steps: what each step gives to its kernel, and each thread's share.
#include <string.h>
#include <time.h>

#include "engine.h"

namespace levit {

Range share(int64_t count, int64_t part, int64_t parts) {
  return {count * part / parts, count * (part + 1) / parts};
}

namespace {

double now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

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
  float *memory(const levit_buffer &b) const {
    return (b.carried ? arena.carried : arena.local).floats() + b.offset * neighbours(b);
  }
  // The first of the group's images in a buffer of rows.
  float *rows(const levit_buffer &b) const { return memory(b) + place(b) * b.rows * b.stride; }
  const levit_buffer &buffer(int64_t number) const { return engine.buffer[number]; }
  // The part of so many equal things.
  Range part_of(int64_t count) const { return cut(levit::share(count, share, shares)); }
  // The piece of a share.
  Range cut(Range whole) const {
    const Range piece_of_it = levit::share(whole.end - whole.begin, piece, pieces);
    return {whole.begin + piece_of_it.begin, whole.begin + piece_of_it.end};
  }
};

void run_conv(const Group &group, const levit_step &step, const Layer &layer) {
  const levit_engine &engine = group.engine;
  const levit_buffer &target = group.buffer(step.target);
  const bool first = step.source < 0;
  const int64_t in_height = first ? engine.input.height : group.buffer(step.source).grid_height;
  const int64_t in_width = first ? engine.input.width : group.buffer(step.source).grid_width;
  const int64_t height = in_height / 2, width = in_width / 2;
  const bool grid = target.grid_height > 0;
  ImageWork work;
  ConvWork &conv = work.conv;
  conv.width = width, conv.columns = target.columns;
  conv.weight = layer.weight, conv.bias = layer.bias;
  conv.activation = step.activation;
  conv.pixel_stride = target.stride;
  conv.target_pitch = (width + grid) * target.stride;
  const int64_t border = grid ? conv.target_pitch + target.stride : 0;
  const Range all = group.part_of(group.images * height);
  for (int64_t row = all.begin; row < all.end; row += conv.rows.end - conv.rows.begin) {
    const int64_t image = row / height, y = row % height;
    conv.rows = {y, all.end - row < height - y ? y + all.end - row : height};
    float *values = group.rows(target) + image * target.rows * target.stride;
    if (grid && y == 0) memset(values, 0, (size_t)conv.target_pitch * sizeof(float));
    for (int64_t i = conv.rows.begin; grid && i < conv.rows.end; i++) {
      float *left = values + (i + 1) * conv.target_pitch;
      memset(left, 0, (size_t)target.stride * sizeof(float));
    }
    conv.target = values + border;
    if (!first) {
      const levit_buffer &source = group.buffer(step.source);
      conv.source = group.rows(source) + image * source.rows * source.stride;
      conv.source_channels = source.columns;
      conv.source_pitch = (in_width + 1) * source.stride;
      engine.kernels->conv(conv);
      continue;
    }
    const int64_t pixels = engine.input.channels * in_height * in_width;
    work.is_uint8 = engine.input.is_uint8;
    const int64_t bytes = pixels * (work.is_uint8 ? 1 : (int64_t)sizeof(float));
    work.image = group.batch.input + (group.batch.first + group.first + image) * bytes;
    work.channels = engine.input.channels, work.height = in_height, work.width = in_width;
    work.scale = engine.pixel_scale, work.shift = engine.pixel_shift;
    engine.kernels->image(work, group.scratch);
  }
}

// Shares a product's tiles so that the thread with the most has least. Where that leaves a choice:
// by rows while each thread has some tiles of them, as the step before and the step after do, so
// that its activations stay in its cache; else by columns, so that each reads a part of the
// weights.
void share_product(const Group &group, int64_t rows, int64_t columns, LinearWork &work) {
  const int64_t threads = group.shares, panel = group.engine.kernels->panel;
  const int64_t tiles = (rows + group.engine.kernels->rows - 1) / group.engine.kernels->rows;
  const int64_t panels = (columns + panel - 1) / panel;
  const bool prefer_rows = tiles >= 4 * threads;
  int64_t least = 0, parts = 1;
  for (int64_t by_rows = 1; by_rows <= threads; by_rows++) {
    if (threads % by_rows) continue;
    const int64_t by_columns = threads / by_rows;
    const int64_t load =
        ((tiles + by_rows - 1) / by_rows) * ((panels + by_columns - 1) / by_columns);
    if (least && (load > least || (load == least && !prefer_rows))) continue;
    least = load, parts = by_rows;
  }
  work.rows = share(rows, group.share % parts, parts);
  work.panels = share(panels, group.share / parts, threads / parts);
  // A panel is the least that can be cut off without reading weights twice.
  Range &cut = work.panels.end - work.panels.begin < group.pieces ? work.rows : work.panels;
  cut = group.cut(cut);
}

void run_linear(const Group &group, const levit_step &step, const Layer &layer) {
  const levit_buffer &source = group.buffer(step.source), &target = group.buffer(step.target);
  LinearWork work;
  work.source = group.rows(source);
  work.source_stride = source.stride;
  work.depth = layer.depth, work.columns = layer.columns;
  work.weight = layer.weight, work.bias = layer.bias;
  work.residual = step.residual < 0 ? nullptr : group.rows(group.buffer(step.residual));
  work.activation = step.activation;
  if (step.kind == LEVIT_PROJECT) { // in blocks of 16 columns, as attention reads them
    work.target = group.memory(target) + group.place(target) * target.rows * LANES;
    work.row_stride = LANES;
    work.chunk_stride = group.neighbours(target) * target.rows * LANES;
  } else {
    work.target = group.rows(target);
    work.row_stride = target.stride;
    work.chunk_stride = LANES;
  }
  share_product(group, group.images * source.rows, layer.columns, work);
  group.engine.kernels->linear(work);
}

struct Blocks {
  const float *first;
  int64_t stride; // floats from block to block
};

Blocks blocks(const Group &group, const levit_view &view) {
  const levit_buffer &buffer = group.buffer(view.buffer);
  const int64_t stride = group.neighbours(buffer) * buffer.rows * LANES;
  const float *start = group.memory(buffer) + view.column / LANES * stride;
  return {start + group.place(buffer) * buffer.rows * LANES, stride};
}

void run_attention(const Group &group, const levit_step &step, const Layer &layer) {
  const levit_buffer &target = group.buffer(step.target);
  const Blocks queries = blocks(group, step.queries), keys = blocks(group, step.keys),
               values = blocks(group, step.values);
  AttentionWork work;
  work.queries = queries.first, work.keys = keys.first, work.values = values.first;
  work.query_block = queries.stride, work.key_block = keys.stride, work.value_block = values.stride;
  work.query_count = target.rows, work.key_count = group.buffer(step.keys.buffer).rows;
  work.key_width = step.keys.width, work.value_width = step.values.width;
  work.images = group.images, work.heads = step.heads;
  work.table = layer.weight;
  work.table_stride = step.has_table ? layer.columns : 0;
  work.target = group.rows(target);
  work.target_stride = target.stride;
  work.activation = step.activation;
  const int64_t rows = group.engine.kernels->rows;
  const int64_t tiles = (work.query_count + rows - 1) / rows;
  work.tiles = group.part_of(step.heads * group.images * tiles);
  group.engine.kernels->attention(work, group.scratch);
}

void run_subsample(const Group &group, const levit_step &step) {
  const levit_buffer &source = group.buffer(step.source), &target = group.buffer(step.target);
  const int64_t width = (step.grid_width + step.step - 1) / step.step;
  const Range all = group.part_of(group.images * target.rows);
  for (int64_t row = all.begin; row < all.end; row++) {
    const int64_t image = row / target.rows, token = row % target.rows;
    const int64_t from = token / width * step.step * step.grid_width + token % width * step.step;
    memcpy(group.rows(target) + row * target.stride,
           group.rows(source) + (image * source.rows + from) * source.stride,
           (size_t)target.stride * sizeof(float));
  }
}

void run_mean(const Group &group, const levit_step &step) {
  const levit_buffer &source = group.buffer(step.source), &target = group.buffer(step.target);
  Range columns = group.part_of(target.stride / LANES);
  columns = {columns.begin * LANES, columns.end * LANES};
  for (int64_t image = 0; image < group.images; image++) {
    group.engine.kernels->mean(group.rows(source) + image * source.rows * source.stride,
                               source.rows, source.stride, columns,
                               group.rows(target) + image * target.stride);
  }
}

void run_output(const Group &group, const levit_step &step) {
  const levit_buffer &source = group.buffer(step.source);
  const int64_t first = group.batch.first + group.first, size = source.rows * source.columns;
  const Range images = group.part_of(group.images);
  for (int64_t image = images.begin; image < images.end; image++) {
    const float *from = group.rows(source) + image * source.rows * source.stride;
    float *to = group.batch.outputs[step.output] + (first + image) * size;
    for (int64_t row = 0; row < source.rows; row++, from += source.stride) {
      if (step.transposed) {
        for (int64_t c = 0; c < source.columns; c++) to[c * source.rows + row] = from[c];
      } else {
        memcpy(to + row * source.columns, from, (size_t)source.columns * sizeof(float));
      }
    }
  }
}

void run_step(const Group &group, int64_t number) {
  const levit_step &step = group.engine.step[number];
  const Layer &layer = group.engine.layer[number];
  switch (step.kind) {
  case LEVIT_CONV: return run_conv(group, step, layer);
  case LEVIT_LINEAR:
  case LEVIT_PROJECT: return run_linear(group, step, layer);
  case LEVIT_ATTENTION: return run_attention(group, step, layer);
  case LEVIT_SUBSAMPLE: return run_subsample(group, step);
  case LEVIT_MEAN: return run_mean(group, step);
  case LEVIT_OUTPUT: return run_output(group, step);
  }
}

} // namespace

void run_chunk(const levit_engine &engine, const Batch &batch, const Arena &arena, float *scratch,
               Member *member, double *seconds) {
  double before = seconds ? now() : 0;
  for (int64_t s = 0; s < engine.stages; s++) {
    const Stage &stage = engine.stage[s];
    // What all threads do together is one group: each step then has one set of pieces.
    const int64_t most = member ? batch.images : stage.group;
    for (int64_t first = 0; first < batch.images; first += most) {
      const int64_t left = batch.images - first;
      const int shares = member ? member->threads() : 1;
      Group group{engine, batch, arena, scratch, first, left < most ? left : most, 0, shares};
      for (int64_t i = stage.first_step; i < stage.first_step + stage.steps; i++) {
        if (member) {
          group.pieces = PIECES;
          while (member->take(i, PIECES, group.share, group.piece)) {
            run_step(group, i);
            member->finish(i, PIECES);
          }
          if (!member->wait(i, PIECES)) return;
        } else {
          run_step(group, i);
        }
        if (!seconds) continue;
        const double after = now();
        seconds[i] += after - before;
        before = after;
      }
    }
  }
}

} // namespace levit
