// Linear layers: rows of tokens times packed weights.
#pragma once
#include "product.h"

namespace {

using levit::LinearWork;

// Rows of the left operand for which one panel of weights is used before the next: some 100 KB of
// float32 activations, which stay in the second level of cache.
constexpr int64_t ROWS_A_PANEL = 112;

// Asks for the lines of a block of the target before they are written: another thread has them
// where it read them last, and stores wait for one after the other (docs/native.md).
LEVIT_INLINE void fetch_target(const LinearWork &work, int64_t row, int64_t rows, int64_t column,
                               int64_t columns) {
  const Store &target = work.target;
  const int64_t bytes = columns * size_of(target.dtype);
  const char *p = target.p + row * target.row_stride + column / 16 * target.chunk_stride;
  for (int64_t r = 0; r < rows; r++, p += target.row_stride) {
    fetch_to_write(p);
    if (bytes > 64) fetch_to_write(p + 64);
  }
}

void linear(const LinearWork &work) {
  const int64_t count = work.rows.end - work.rows.begin;
  const int64_t blocks = (count + ROWS_A_PANEL - 1) / ROWS_A_PANEL;
  Panels panels;
  Product product;
  product.activation = work.activation;
  for (int64_t block = 0; block < blocks; block++) {
    const int64_t first = work.rows.begin + count * block / blocks;
    const int64_t rows = work.rows.begin + count * (block + 1) / blocks - first;
    const int64_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int64_t panel = work.panels.begin; panel < work.panels.end; panel++) {
      const int64_t column = panel * PANEL;
      const int64_t columns = work.columns - column < PANEL ? 16 : PANEL;
      product.weights = from_column(work.weights, column);
      for (int64_t tile = 0; tile < tiles; tile++) {
        const int64_t begin = rows * tile / tiles, end = rows * (tile + 1) / tiles;
        const int64_t row = first + begin;
        const Store &target = work.target, &copy = work.copy;
        const int64_t at = row * target.row_stride + column / 16 * target.chunk_stride;
        // The first two tiles fetch half of the next panel each: streaming it within one tile would
        // ask for more than the third level of cache gives.
        const float *next = product.weights.panels + columns * work.weights.pitch;
        product.ahead = tiles == 1 ? next
                        : tile < 2 ? next + tile * 16 * work.weights.pitch
                                   : product.weights.panels;
        product.ahead_stride = tiles == 1 ? PANEL : tile < 2 ? 16 : 0;
        product.left = {work.source + row * work.source_stride, work.source_stride, work.depth, 1,
                        0};
        product.target = from_place(target, at);
        product.copy = from_place(copy, row * copy.row_stride + column / 16 * copy.chunk_stride);
        product.residual =
            work.residual ? beside(work.residual, target, row, column / 16) : nullptr;
        if (tile == 0 && panel == work.panels.begin) {
          fetch_target(work, row, end - begin, column, columns);
        }
        if (tile + 1 < tiles) {
          fetch_target(work, first + end, rows * (tile + 2) / tiles - end, column, columns);
        } else if (panel + 1 < work.panels.end) {
          fetch_target(work, first, rows / tiles, column + PANEL, columns);
        }
        panels.multiply(product, end - begin, columns);
      }
    }
  }
}

} // namespace
