// Steps around the tokens of vision transformers of one width: patches, norms, rows put together.
#include <string.h>

#include "group.h"

namespace levit {

void run_patches(const Group &group, const levit_step &step) {
  const levit_engine &engine = group.engine;
  const levit_input &input = engine.input;
  const levit_buffer &target = group.buffer(step.target);
  PatchesWork work;
  work.is_uint8 = input.is_uint8 || group.batch.by_tables;
  work.channels = input.channels, work.height = input.height, work.width = input.width;
  work.scale = engine.pixel_scale, work.shift = engine.pixel_shift;
  work.tables = group.batch.by_tables ? engine.tables : nullptr;
  work.size = step.size, work.first = step.first;
  const int64_t bytes = input.channels * input.height * input.width * (work.is_uint8 ? 1 : 4);
  const Range all = group.part_of(group.images * target.rows);
  for (int64_t row = all.begin; row < all.end; row += work.rows.end - work.rows.begin) {
    const int64_t image = row / target.rows, first = row % target.rows;
    const int64_t left = all.end - row, rest = target.rows - first;
    work.rows = {first, first + (left < rest ? left : rest)};
    work.image = group.batch.input + (group.batch.first + group.first + image) * bytes;
    work.target = group.store(step.target);
    work.target.p += image * target.rows * target.stride;
    engine.kernels[target.dtype]->patches(work, group.scratch);
  }
}

void run_layer_norm(const Group &group, const levit_step &step, const Layer &layer) {
  const levit_buffer &source = group.buffer(step.source), &target = group.buffer(step.target);
  NormWork work;
  work.source = (const float *)group.rows(source);
  work.source_stride = source.stride, work.columns = source.columns;
  work.weight = step.has_affine ? layer.scale : nullptr, work.bias = layer.start;
  work.eps = (float)step.eps;
  work.target = group.store(step.target);
  work.rows = group.part_of(group.images * source.rows);
  group.engine.kernels[target.dtype]->layer_norm(work);
}

void run_stack(const Group &group, const levit_step &step, const Layer &layer) {
  const levit_buffer &target = group.buffer(step.target);
  const Range all = group.part_of(group.images * target.rows);
  for (int64_t row = all.begin; row < all.end; row++) {
    const int64_t image = row / target.rows, at = row % target.rows;
    const char *values = (const char *)(layer.weight + at * layer.columns);
    if (at >= layer.depth) {
      const levit_buffer &source = group.buffer(step.source);
      values = group.rows(source) + (image * source.rows + at - layer.depth) * source.stride;
    }
    memcpy(group.rows(target) + row * target.stride, values, (size_t)target.stride);
  }
}

void run_rows(const Group &group, const levit_step &step) {
  const levit_buffer &source = group.buffer(step.source), &target = group.buffer(step.target);
  const int64_t part = source.columns * size_of(target.dtype); // bytes of one row among others
  const int64_t whole = target.columns * size_of(target.dtype);
  const Range all = group.part_of(group.images * target.rows);
  Store aside = group.store(step.target);
  aside.p = (char *)group.scratch;
  for (int64_t row = all.begin; row < all.end; row++) {
    const int64_t image = row / target.rows, first = step.first + row % target.rows * step.together;
    const char *values = group.rows(source) + (image * source.rows + first) * source.stride;
    char *to = group.rows(target) + row * target.stride;
    memset(to + whole, 0, (size_t)(target.stride - whole)); // a product reads whole words
    for (int64_t i = 0; i < step.together; i++, values += source.stride, to += part) {
      if (source.dtype == target.dtype) { // and of the same scale
        memcpy(to, values, (size_t)part);
        continue;
      }
      group.engine.kernels[target.dtype]->convert((const float *)values,
                                                  {0, padded(source.columns) / LANES}, aside);
      memcpy(to, aside.p, (size_t)part);
    }
  }
}

} // namespace levit
