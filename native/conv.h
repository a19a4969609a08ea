// Convolutions of the stem: 3x3 with stride 2, channels last, as products of windows.
#pragma once
#include <string.h>

#include "product.h"

namespace {

using levit::ConvWork;
using levit::ImageWork;

// A tile of a grid whose last columns are no channels: where they would lie are the next pixel's.
// Hence it is stored aside, and copied as far as its words of channels go.
struct Aside {
  alignas(64) char values[TILE_ROWS * PANEL * 4];
  Store store;

  Store begin(const Store &whole) {
    store = whole;
    if (!whole.p) return whole;
    const int64_t size = size_of(whole.dtype);
    store.p = values, store.row_stride = PANEL * size, store.chunk_stride = 16 * size;
    return store;
  }
  void finish(const Store &whole, int64_t rows, int64_t columns) const {
    if (!whole.p) return;
    const size_t bytes = (size_t)levit::words(columns, whole.dtype) * 4;
    for (int64_t r = 0; r < rows; r++) {
      memcpy(whole.p + r * whole.row_stride, values + r * store.row_stride, bytes);
    }
  }
};

// A pixel has room for so many columns: tokens always, whose rows are whole blocks.
LEVIT_INLINE bool holds(const Store &store_, int64_t columns) {
  return !store_.p || columns * size_of(store_.dtype) <= store_.row_stride;
}

// One row of a convolution's target, for one panel of its channels.
LEVIT_INLINE void conv_row(const ConvWork &work, const char *source, int64_t y, int64_t column,
                           Panels &panels) {
  const int64_t left_columns = work.columns - column;
  const int64_t columns = left_columns <= 16 ? 16 : PANEL;
  const int64_t depth = 3 * work.source_pixel / 4;
  const int64_t tiles = (work.width + TILE_ROWS - 1) / TILE_ROWS;
  Product product;
  product.weights = from_column(work.weights, column);
  product.ahead = product.weights.panels, product.ahead_stride = 0; // they are in L1 already
  product.residual = nullptr;
  product.activation = work.activation;
  for (int64_t tile = 0; tile < tiles; tile++) {
    const int64_t begin = work.width * tile / tiles, end = work.width * (tile + 1) / tiles;
    product.left = {source + begin * 2 * work.source_pixel, 2 * work.source_pixel, depth, 3,
                    work.source_pitch};
    const Store target =
        from_place(work.target, y * work.target_pitch + begin * work.target.row_stride +
                                    column * size_of(work.target.dtype));
    const Store copy = from_place(work.copy, y * work.copy_pitch + begin * work.copy.row_stride +
                                                 column * size_of(work.copy.dtype));
    if (holds(target, column + columns) && holds(copy, column + columns)) {
      product.target = target, product.copy = copy;
      panels.multiply(product, end - begin, columns);
      continue;
    }
    Aside target_aside, copy_aside;
    product.target = target_aside.begin(target), product.copy = copy_aside.begin(copy);
    panels.multiply(product, end - begin, columns);
    panels.finish();
    target_aside.finish(target, end - begin, left_columns);
    copy_aside.finish(copy, end - begin, left_columns);
  }
}

void conv(const ConvWork &work) {
  Panels panels;
  for (int64_t column = 0; column < work.columns; column += PANEL) {
    for (int64_t y = work.rows.begin; y < work.rows.end; y++) {
      conv_row(work, work.source + 2 * y * work.source_pitch, y, column, panels);
    }
  }
}

} // namespace
