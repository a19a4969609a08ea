// Products with packed weights: Linear layers and convolutions, and all that happens to their
// results in registers: bias, HardSwish, the residual sum.
#pragma once
#include <string.h>

#include "abi.h"
#include "kernels.h"
#include "tile.h"

namespace {

using levit::ConvWork;
using levit::ImageWork;
using levit::LinearWork;
using levit::Range;

// Rows of the left operand for which one panel of weights is used before the next: some 100 KB of
// activations, which stay in the second level of cache.
constexpr int64_t ROWS_A_PANEL = 112;

struct Product {
  Left left;
  const float *weight, *bias;
  const float *ahead;   // weights that are wanted next
  int64_t ahead_stride; // floats from one line that is fetched to the next
  Place target;
  const float *residual; // at the target's place; null for none
  int64_t activation;    // none beside a residual
};

template <int ROWS, int VECTORS>
__attribute__((noinline)) void product_tile(const Product &product) {
  Tile<ROWS, VECTORS> sum;
  LEVIT_UNROLL for (int r = 0; r < ROWS; r++) {
    LEVIT_UNROLL for (int v = 0; v < VECTORS; v++) sum.at[r][v] = Vec{};
  }
  multiply(sum, product.left, Packed<VECTORS>{product.weight, product.ahead, product.ahead_stride});
  Vec bias[VECTORS];
  LEVIT_UNROLL for (int v = 0; v < VECTORS; v++) bias[v] = load(product.bias + v * WIDTH);
  const Place &target = product.target;
  if (product.activation == LEVIT_HARD_SWISH) {
    LEVIT_UNROLL for (int r = 0; r < ROWS; r++) {
      LEVIT_UNROLL for (int v = 0; v < VECTORS; v++) {
        store(target.at(r, v), hard_swish(sum.at[r][v] + bias[v]));
      }
    }
    return;
  }
  if (product.residual) {
    LEVIT_UNROLL for (int r = 0; r < ROWS; r++) {
      LEVIT_UNROLL for (int v = 0; v < VECTORS; v++) {
        float *p = target.at(r, v);
        store(p, sum.at[r][v] + bias[v] + load(product.residual + (p - target.p)));
      }
    }
    return;
  }
  LEVIT_UNROLL for (int r = 0; r < ROWS; r++) {
    LEVIT_UNROLL for (int v = 0; v < VECTORS; v++) {
      store(target.at(r, v), sum.at[r][v] + bias[v]);
    }
  }
  if (product.activation != LEVIT_IDENTITY) {
    activate_stored<ROWS, VECTORS>(target, product.activation);
  }
}

template <int VECTORS, class ALL> struct ProductTiles;
template <int VECTORS, int... ROWS> struct ProductTiles<VECTORS, Heights<ROWS...>> {
  static constexpr void (*of_rows[])(const Product &) = {product_tile<ROWS, VECTORS>...};
};

LEVIT_INLINE void multiply_panel(const Product &product, int64_t rows, int64_t columns) {
  (columns == PANEL ? ProductTiles<TILE_VECTORS, AllHeights>::of_rows
                    : ProductTiles<HALF, AllHeights>::of_rows)[rows - 1](product);
}

void linear(const LinearWork &work) {
  const int64_t count = work.rows.end - work.rows.begin;
  const int64_t blocks = (count + ROWS_A_PANEL - 1) / ROWS_A_PANEL;
  Product product;
  product.activation = work.activation;
  for (int64_t block = 0; block < blocks; block++) {
    const int64_t first = work.rows.begin + count * block / blocks;
    const int64_t rows = work.rows.begin + count * (block + 1) / blocks - first;
    const int64_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int64_t panel = work.panels.begin; panel < work.panels.end; panel++) {
      const int64_t column = panel * PANEL;
      const int64_t columns = work.columns - column < PANEL ? 16 : PANEL;
      product.weight = work.weight + column * work.depth;
      product.bias = work.bias + column;
      for (int64_t tile = 0; tile < tiles; tile++) {
        const int64_t begin = rows * tile / tiles, end = rows * (tile + 1) / tiles;
        const int64_t row = first + begin;
        const int64_t at = row * work.row_stride + column / 16 * work.chunk_stride;
        // The first two tiles fetch half of the next panel each: streaming it within one tile would
        // ask for more than the third level of cache gives.
        const float *next = product.weight + columns * work.depth;
        product.ahead = tiles == 1 ? next
                        : tile < 2 ? next + tile * 16 * work.depth
                                   : product.weight;
        product.ahead_stride = tiles == 1 ? PANEL : tile < 2 ? 16 : 0;
        product.left = {work.source + row * work.source_stride, work.source_stride, work.depth, 1,
                        0};
        product.target = {work.target + at, work.row_stride, work.chunk_stride};
        product.residual = work.residual ? work.residual + at : nullptr;
        multiply_panel(product, end - begin, columns);
      }
    }
  }
}

// One row of a convolution's target, for one panel of its channels.
LEVIT_INLINE void conv_row(const ConvWork &work, const float *source, float *target,
                           int64_t column) {
  const int64_t left_columns = work.columns - column;
  const int64_t columns = left_columns <= 16 ? 16 : PANEL;
  const int64_t depth = 3 * work.source_channels;
  const int64_t tiles = (work.width + TILE_ROWS - 1) / TILE_ROWS;
  Product product;
  product.weight = work.weight + column * 3 * depth;
  product.bias = work.bias + column;
  product.ahead = product.weight, product.ahead_stride = 0; // they are in L1 already
  product.residual = nullptr;
  product.activation = work.activation;
  alignas(64) float whole[TILE_ROWS * PANEL];
  for (int64_t tile = 0; tile < tiles; tile++) {
    const int64_t begin = work.width * tile / tiles, end = work.width * (tile + 1) / tiles;
    const int64_t pixel = 2 * work.source_channels;
    product.left = {source + begin * pixel, pixel, depth, 3, work.source_pitch};
    float *p = target + begin * work.pixel_stride + column;
    if (left_columns >= columns) {
      product.target = {p, work.pixel_stride, 16};
      multiply_panel(product, end - begin, columns);
      continue;
    }
    // Channels that fill no whole vector: storing one would write into the next pixel.
    product.target = {whole, PANEL, 16};
    multiply_panel(product, end - begin, columns);
    for (int64_t r = 0; r < end - begin; r++) {
      memcpy(p + r * work.pixel_stride, whole + r * PANEL, (size_t)left_columns * sizeof(float));
    }
  }
}

void conv(const ConvWork &work) {
  for (int64_t column = 0; column < work.columns; column += PANEL) {
    for (int64_t y = work.rows.begin; y < work.rows.end; y++) {
      conv_row(work, work.source + 2 * y * work.source_pitch, work.target + y * work.target_pitch,
               column);
    }
  }
}

// Row `y` of the image, channels last, after a zero pixel at the left; a row of zeros above the
// image.
LEVIT_INLINE void image_row(const ImageWork &work, int64_t y, float *row) {
  const int64_t count = work.width * work.channels;
  for (int64_t c = 0; c < work.channels; c++) *row++ = 0;
  if (y < 0) {
    memset(row, 0, (size_t)count * sizeof(float));
    return;
  }
  if (work.is_uint8) {
    const uint8_t *pixels = (const uint8_t *)work.image + y * count;
    int64_t i = 0;
    for (; i + levit::PIXEL_LANES <= count; i += levit::PIXEL_LANES) {
      for (int64_t j = 0; j < levit::PIXEL_LANES; j++)
        row[i + j] = (float)pixels[i + j] * work.scale[j] + work.shift[j];
    }
    for (int64_t j = 0; i + j < count; j++) {
      row[i + j] = (float)pixels[i + j] * work.scale[j] + work.shift[j];
    }
    return;
  }
  const float *plane = (const float *)work.image + y * work.width;
  const int64_t next = work.height * work.width;
  if (work.channels == 3) {
    for (int64_t x = 0; x < work.width; x++) {
      row[3 * x] = plane[x];
      row[3 * x + 1] = plane[next + x];
      row[3 * x + 2] = plane[2 * next + x];
    }
    return;
  }
  for (int64_t c = 0; c < work.channels; c++) {
    for (int64_t x = 0; x < work.width; x++) row[x * work.channels + c] = plane[c * next + x];
  }
}

void image(const ImageWork &work, float *scratch) {
  ConvWork conv = work.conv;
  conv.source_channels = work.channels;
  conv.source_pitch = levit::padded((work.width + 1) * work.channels);
  float *rows[3] = {scratch, scratch + conv.source_pitch, scratch + 2 * conv.source_pitch};
  for (int64_t y = conv.rows.begin; y < conv.rows.end; y++) {
    if (y == conv.rows.begin) {
      image_row(work, 2 * y - 1, rows[0]);
    } else {
      memcpy(rows[0], rows[2], (size_t)conv.source_pitch * sizeof(float));
    }
    image_row(work, 2 * y, rows[1]);
    image_row(work, 2 * y + 1, rows[2]);
    for (int64_t column = 0; column < conv.columns; column += PANEL) {
      conv_row(conv, scratch, conv.target + y * conv.target_pitch, column);
    }
  }
}

} // namespace
