// Squares of the caller's image as rows of tokens: pixels are moved, and normalised, no more.
#pragma once
#include "image.h"

namespace {

using levit::PatchesWork;

// Values of a square of planes: channels, rows, columns.
LEVIT_INLINE void plane_square(const PatchesWork &work, int64_t y, int64_t x, float *row) {
  const int64_t size = work.size;
  for (int64_t c = 0; c < work.channels; c++) {
    const float *plane = (const float *)work.image + (c * work.height + y) * work.width + x;
    for (int64_t i = 0; i < size; i++, plane += work.width, row += size) {
      int64_t j = 0;
      for (; j + WIDTH <= size; j += WIDTH) store(row + j, load(plane + j));
      for (; j < size; j++) row[j] = plane[j];
    }
  }
}

// Values of a square of pixels, normalised: rows, columns, channels.
LEVIT_INLINE void pixel_square(const PatchesWork &work, int64_t y, int64_t x, float *row) {
  const int64_t count = work.size * work.channels;
  for (int64_t i = 0; i < work.size; i++, row += count) {
    const uint8_t *pixels =
        (const uint8_t *)work.image + ((y + i) * work.width + x) * work.channels;
    normalise(pixels, count, work.scale, work.shift, row);
  }
}

// Values of a square of pixels, by the tables: channels, rows, columns.
LEVIT_INLINE void table_square(const PatchesWork &work, int64_t y, int64_t x, float *row) {
  for (int64_t c = 0; c < work.channels; c++) {
    const float *table = work.tables + c * levit::PIXEL_VALUES;
    for (int64_t i = 0; i < work.size; i++, row += work.size) {
      const uint8_t *pixels =
          (const uint8_t *)work.image + ((y + i) * work.width + x) * work.channels + c;
      for (int64_t j = 0; j < work.size; j++) row[j] = table[pixels[j * work.channels]];
    }
  }
}

void patches(const PatchesWork &work, float *scratch) {
  const int64_t across = work.width / work.size;
  const int64_t columns = work.channels * work.size * work.size, all = levit::padded(columns);
  const bool in_place = work.target.dtype == LEVIT_FLOAT32;
  for (int64_t r = work.rows.begin; r < work.rows.end; r++) {
    float *row = in_place ? (float *)(work.target.p + r * work.target.row_stride) : scratch;
    if (r < work.first) {
      memset(row, 0, (size_t)all * sizeof(float));
    } else {
      const int64_t square = r - work.first;
      const int64_t y = square / across * work.size, x = square % across * work.size;
      if (work.tables) {
        table_square(work, y, x, row);
      } else if (work.is_uint8) {
        pixel_square(work, y, x, row);
      } else {
        plane_square(work, y, x, row);
      }
      memset(row + columns, 0, (size_t)(all - columns) * sizeof(float));
    }
    if (in_place) continue;
    for (int64_t c = 0; c < all / 16; c++) {
      Vec values[CHUNK];
      LEVIT_UNROLL for (int i = 0; i < CHUNK; i++) values[i] = load(row + c * 16 + i * WIDTH);
      put(work.target, r, c, values);
    }
  }
}

} // namespace
