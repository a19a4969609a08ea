#include "pack.h"

#include <stdlib.h>
#include <string.h>

namespace levit {

namespace {

// Copies a column's weights in the order of the source's values, filled up to whole words: of a
// convolution from (channel, window) to (window, channel).
void arrange(const char *weight, int64_t values, int64_t size, bool conv, char *words) {
  if (!conv) {
    memcpy(words, weight, (size_t)(values * size));
    return;
  }
  const int64_t channels = values / 9, pixel = (channels * size + 3) / 4 * 4;
  for (int64_t window = 0; window < 9; window++) {
    for (int64_t c = 0; c < channels; c++) {
      memcpy(words + window * pixel + c * size, weight + (c * 9 + window) * size, (size_t)size);
    }
  }
}

// Sum of a column's int8 weights.
int64_t sum_of(const char *weight, int64_t values) {
  int64_t sum = 0;
  for (int64_t i = 0; i < values; i++) sum += (int8_t)weight[i];
  return sum;
}

// The zero point of what a layer reads.
int64_t zero_of(const levit_engine &engine, const levit_step &step) {
  return (int64_t)(step.source < 0 ? engine.input.shift : engine.buffer[step.source].shift);
}

} // namespace

int64_t values_of(const levit_engine &engine, const levit_step &step) {
  const int64_t channels =
      step.source < 0 ? engine.input.channels : engine.buffer[step.source].columns;
  return step.kind == LEVIT_CONV ? 9 * channels : channels;
}

bool pack_columns(const levit_engine &engine, const levit_step &step, Layer &layer,
                  const Columns &columns) {
  const int64_t values = values_of(engine, step), size = size_of(layer.dtype);
  const Kernels &kernels = *engine.kernels[layer.dtype];
  const bool bytes = layer.dtype == LEVIT_UINT8, conv = step.kind == LEVIT_CONV;
  float *words = (float *)calloc((size_t)(columns.count * layer.pitch), sizeof(float));
  if (!words) return false;
  const int64_t zero = bytes ? zero_of(engine, step) - kernels.left_zero : 0;
  for (int64_t n = 0; n < columns.count; n++) {
    const char *weight = columns.weight + n * values * size;
    arrange(weight, values, size, conv, (char *)(words + n * layer.pitch));
    const int64_t at = layer.packed + n;
    if (columns.bias) memcpy(layer.start + at, columns.bias + n * 4, 4);
    if (!bytes) continue;
    int32_t start = 0;
    memcpy(&start, layer.start + at, 4);
    start = (int32_t)((int64_t)start - zero * sum_of(weight, values));
    memcpy(layer.start + at, &start, 4);
    layer.scale[at] = columns.scale[n];
  }
  kernels.pack(words, columns.count, layer.pitch, layer.packed, layer.columns, layer.weight);
  free(words);
  layer.packed += padded(columns.count);
  return true;
}

void pack_attention(const levit_engine &engine, const levit_step &step, Layer &layer,
                    const AttentionArrays &arrays) {
  const int64_t rows = step.has_table ? step.heads * engine.buffer[step.target].rows : 1;
  const int64_t keys = engine.buffer[step.keys.buffer].rows;
  for (int64_t row = 0; row < rows; row++) {
    float *to = layer.weight + row * layer.columns;
    if (arrays.table) memcpy(to, arrays.table + row * keys, (size_t)keys * sizeof(float));
    for (int64_t key = keys; key < layer.columns; key++) to[key] = -__builtin_inff();
  }
  if (!arrays.score_scale || !arrays.value_scale) return;
  memcpy(layer.start, arrays.score_scale, (size_t)step.heads * sizeof(float));
  const int64_t width = step.values.width;
  for (int64_t head = 0; head < step.heads; head++) {
    float *scale = layer.scale + head * padded(width), *offset = scale + layer.scales / 2;
    const size_t bytes = (size_t)width * sizeof(float);
    memcpy(scale, arrays.value_scale + head * width, bytes);
    if (arrays.value_offset) memcpy(offset, arrays.value_offset + head * width, bytes);
  }
}

void pack_positions(const levit_engine &engine, const levit_step &step, Layer &layer,
                    const float *positions, const float *rest) {
  const int64_t rows = step.heads * engine.buffer[step.target].rows;
  const int64_t keys = engine.buffer[step.keys.buffer].rows;
  for (int64_t row = 0; row < rows; row++) {
    memcpy(layer.positions(rows) + row * layer.columns, positions + row * keys,
           (size_t)keys * sizeof(float));
  }
  for (int64_t head = 0; head < step.heads; head++) layer.rest()[head] = rest ? rest[head] : 1;
}

void pack_norm(const levit_engine &engine, const levit_step &step, Layer &layer,
               const float *weight, const float *bias) {
  const size_t size = (size_t)engine.buffer[step.target].columns * sizeof(float);
  if (weight) memcpy(layer.scale, weight, size);
  if (bias) memcpy(layer.start, bias, size);
}

void pack_rows(const levit_engine &engine, const levit_step &step, Layer &layer,
               const float *rows) {
  const int64_t columns = engine.buffer[step.target].columns;
  for (int64_t row = 0; row < layer.depth; row++) {
    memcpy(layer.weight + row * layer.columns, rows + row * columns,
           (size_t)columns * sizeof(float));
  }
}

} // namespace levit
