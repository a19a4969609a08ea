// A chunk of images through all steps: what each step gives to its kernel, and each thread's share.
#include <string.h>
#include <time.h>

#include "group.h"

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

// Puts the border of zeros into rows [begin, end) of an image's grid: the pixel at the left, and
// above the first row a row of them.
void put_border(const levit_buffer &grid, char *values, Range rows) {
  const int64_t pitch = (grid.grid_width + 1) * grid.stride;
  const int zero = grid.dtype == LEVIT_UINT8 ? (int)grid.shift : 0;
  if (rows.begin == 0) memset(values, zero, (size_t)pitch);
  for (int64_t i = rows.begin; i < rows.end; i++) {
    memset(values + (i + 1) * pitch, zero, (size_t)grid.stride);
  }
}

// Where an image's grid or tokens go, from the first pixel on; sets the pitch of rows, 0 of no
// buffer.
Store image_store(const Group &group, int64_t number, int64_t image, int64_t width, Range rows,
                  int64_t &pitch) {
  Store store_ = group.store(number);
  pitch = 0;
  if (number < 0) return store_;
  const levit_buffer &buffer = group.buffer(number);
  const bool grid = buffer.grid_height > 0;
  store_.p += image * buffer.rows * buffer.stride;
  if (grid) put_border(buffer, store_.p, rows);
  pitch = (width + grid) * buffer.stride;
  if (grid) store_.p += pitch + buffer.stride;
  return store_;
}

void run_conv(const Group &group, const levit_step &step, const Layer &layer) {
  const levit_engine &engine = group.engine;
  const levit_input &input = engine.input;
  const bool first = step.source < 0;
  const int64_t in_height = first ? input.height : group.buffer(step.source).grid_height;
  const int64_t in_width = first ? input.width : group.buffer(step.source).grid_width;
  const int64_t height = in_height / 2, width = in_width / 2;
  const Kernels &kernels = *engine.kernels[layer.dtype];
  ImageWork work;
  ConvWork &conv = work.conv;
  conv.width = width, conv.columns = group.buffer(step.target).columns;
  conv.weights = layer.weights();
  conv.activation = step.activation;
  const Range all = group.part_of(group.images * height);
  for (int64_t row = all.begin; row < all.end; row += conv.rows.end - conv.rows.begin) {
    const int64_t image = row / height, y = row % height;
    conv.rows = {y, all.end - row < height - y ? y + all.end - row : height};
    conv.target = image_store(group, step.target, image, width, conv.rows, conv.target_pitch);
    conv.copy = image_store(group, step.copy, image, width, conv.rows, conv.copy_pitch);
    if (!first) {
      const levit_buffer &source = group.buffer(step.source);
      conv.source = group.rows(source) + image * source.rows * source.stride;
      conv.source_pixel = source.stride;
      conv.source_pitch = (in_width + 1) * source.stride;
      kernels.conv(conv);
      continue;
    }
    const int64_t pixels = input.channels * in_height * in_width;
    work.is_uint8 = input.is_uint8 || group.batch.by_tables;
    const int64_t bytes = pixels * (work.is_uint8 ? 1 : (int64_t)sizeof(float));
    work.image = group.batch.input + (group.batch.first + group.first + image) * bytes;
    work.channels = input.channels, work.height = in_height, work.width = in_width;
    work.scale = engine.pixel_scale, work.shift = engine.pixel_shift;
    work.tables = group.batch.by_tables ? engine.tables : nullptr;
    work.raw = input.raw, work.border = (uint32_t)input.border;
    work.inverse_scale = (float)input.inverse_scale, work.zero = (float)input.shift;
    kernels.image(work, group.scratch);
  }
}

// Shares a product's tiles so that the thread with the most has least. Where that leaves a choice,
// or next to one: by rows while each thread has some tiles of them, as the step before and the step
// after do, so that its activations stay in its cache; else by columns, so that each reads a part
// of the weights.
void share_product(const Group &group, const Kernels &kernels, int64_t rows, int64_t columns,
                   LinearWork &work) {
  const int64_t threads = group.shares, panel = kernels.panel;
  const int64_t tiles = (rows + kernels.rows - 1) / kernels.rows;
  const int64_t panels = (columns + panel - 1) / panel;
  const bool prefer_rows = tiles >= 4 * threads;
  int64_t least = 0, parts = 1;
  for (int64_t by_rows = 1; by_rows <= threads; by_rows++) {
    if (threads % by_rows) continue;
    const int64_t by_columns = threads / by_rows;
    const int64_t load =
        ((tiles + by_rows - 1) / by_rows) * ((panels + by_columns - 1) / by_columns);
    const int64_t allowed = prefer_rows ? least + least / 8 : least - 1;
    if (least && load > allowed) continue;
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
  const Kernels &kernels = *group.engine.kernels[layer.dtype];
  LinearWork work;
  work.source = group.rows(source);
  work.source_stride = source.stride;
  work.depth = layer.depth, work.columns = layer.columns;
  work.weights = layer.weights();
  work.residual =
      step.residual < 0 ? nullptr : (const float *)group.rows(group.buffer(step.residual));
  work.activation = step.activation;
  work.target = group.store(step.target), work.copy = group.store(step.copy);
  if (step.kind == LEVIT_PROJECT) { // in blocks of 16 columns, as attention reads them
    const int64_t row = LANES * size_of(target.dtype);
    work.target.p = group.memory(target) + group.place(target) * target.rows * row;
    work.target.row_stride = row;
    work.target.chunk_stride = group.neighbours(target) * target.rows * row;
  }
  share_product(group, kernels, group.images * source.rows, layer.columns, work);
  kernels.linear(work);
}

struct Blocks {
  const char *first;
  int64_t stride; // bytes from block to block
};

Blocks blocks(const Group &group, const levit_view &view) {
  const levit_buffer &buffer = group.buffer(view.buffer);
  const int64_t row = LANES * size_of(buffer.dtype);
  const int64_t stride = group.neighbours(buffer) * buffer.rows * row;
  const char *start = group.memory(buffer) + view.column / LANES * stride;
  return {start + group.place(buffer) * buffer.rows * row, stride};
}

void run_attention(const Group &group, const levit_step &step, const Layer &layer) {
  const levit_buffer &target = group.buffer(step.target);
  const Kernels &kernels = *group.engine.kernels[layer.dtype];
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
  work.positions = step.has_positions ? layer.positions(step.heads * target.rows) : nullptr;
  work.rest = layer.rest();
  work.score_scale = layer.start, work.value_scale = layer.scale;
  work.value_offset = layer.scale + layer.scales / 2;
  work.target = group.store(step.target);
  work.activation = step.activation;
  const int64_t tiles = (work.query_count + kernels.queries - 1) / kernels.queries;
  work.tiles = group.part_of(step.heads * group.images * tiles);
  kernels.attention(work, group.scratch);
}

void run_subsample(const Group &group, const levit_step &step) {
  const levit_buffer &source = group.buffer(step.source), &target = group.buffer(step.target);
  const int64_t width = (step.grid_width + step.step - 1) / step.step;
  const Range all = group.part_of(group.images * target.rows);
  Store to = group.store(step.target);
  for (int64_t row = all.begin; row < all.end; row++) {
    const int64_t image = row / target.rows, token = row % target.rows;
    const int64_t from = token / width * step.step * step.grid_width + token % width * step.step;
    const char *values = group.rows(source) + (image * source.rows + from) * source.stride;
    to.p = group.rows(target) + row * target.stride;
    if (source.dtype == target.dtype) { // and of the same scale
      memcpy(to.p, values, (size_t)target.stride);
    } else {
      group.engine.kernels[target.dtype]->convert((const float *)values,
                                                  {0, padded(target.columns) / LANES}, to);
    }
  }
}

void run_mean(const Group &group, const levit_step &step) {
  const levit_buffer &source = group.buffer(step.source), &target = group.buffer(step.target);
  const Range chunks = group.part_of(padded(target.columns) / LANES);
  Store to = group.store(step.target);
  for (int64_t image = 0; image < group.images; image++, to.p += target.stride) {
    const char *values = group.rows(source) + (image * source.rows + step.first) * source.stride;
    group.engine.kernels[target.dtype]->mean((const float *)values, source.rows - step.first,
                                             source.stride / (int64_t)sizeof(float), chunks, to);
  }
}

void run_output(const Group &group, const levit_step &step) {
  const levit_buffer &source = group.buffer(step.source);
  const int64_t first = group.batch.first + group.first, size = source.rows * source.columns;
  const Range images = group.part_of(group.images);
  for (int64_t image = images.begin; image < images.end; image++) {
    const char *values = group.rows(source) + image * source.rows * source.stride;
    float *to = group.batch.outputs[step.output] + (first + image) * size;
    for (int64_t row = 0; row < source.rows; row++, values += source.stride) {
      const float *from = (const float *)values;
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
  case LEVIT_PATCHES: return run_patches(group, step);
  case LEVIT_LAYER_NORM: return run_layer_norm(group, step, layer);
  case LEVIT_STACK: return run_stack(group, step, layer);
  case LEVIT_ROWS: return run_rows(group, step);
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
