// AMX: tiles of 16 rows x 16 words in registers of their own. Four of them are the sums of 32 rows
// x 32 columns; they come back through memory, and are finished from there.
#pragma once
#include <string.h>

#include "finish.h"
#if defined(LEVIT_EMULATE_AMX)
#include "amx_emulated.h"
#else
// Instructions by themselves: GCC's intrinsics do not say that they read memory, and what is stored
// just before may be left out.
#define LEVIT_TILE(operation) LEVIT_TILE_##operation
#define LEVIT_TILE_loadconfig(config) __asm__ volatile("ldtilecfg %0" : : "m"(*(config)) : "memory")
#define LEVIT_TILE_release() __asm__ volatile("tilerelease")
#define LEVIT_TILE_zero(tile) __asm__ volatile("tilezero %%tmm" #tile::)
#define LEVIT_TILE_loadd(tile, from, stride)                                                       \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(from), "r"(stride) : "memory")
#define LEVIT_TILE_stored(tile, to, stride)                                                        \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(to), "r"(stride) : "memory")
#define LEVIT_TILE_dpbusd(sum, left, right)                                                        \
  __asm__ volatile("tdpbusd %%tmm" #right ", %%tmm" #left ", %%tmm" #sum::)
#define LEVIT_TILE_dpbf16ps(sum, left, right)                                                      \
  __asm__ volatile("tdpbf16ps %%tmm" #right ", %%tmm" #left ", %%tmm" #sum::)
#endif

namespace {

constexpr int SIDE = 16; // rows, and words of a row

// Sets all tiles up for this thread, and gives them back: a thread that holds tiles makes every
// switch to another one slower.
class Tiles {
public:
  Tiles() {
    Config config;
    for (int i = 0; i < 8; i++) config.bytes[i] = SIDE * 4, config.rows[i] = SIDE;
    LEVIT_TILE(loadconfig)(&config);
  }
  ~Tiles() { LEVIT_TILE(release)(); }

private:
  struct Config { // Intel's manual, volume 1, table 18-3
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  };
};

// Tiles: 0 to 3 are sums, of the first or second 16 rows and columns; 4 and 5 rows, 6 and 7
// columns. Written out, because GCC makes a part of an instruction of them.
#define LEVIT_DOT(sum, rows, columns)                                                              \
  if constexpr (Number::INTEGER) {                                                                 \
    LEVIT_TILE(dpbusd)(sum, rows, columns);                                                        \
  } else {                                                                                         \
    LEVIT_TILE(dpbf16ps)(sum, rows, columns);                                                      \
  }

// Rows whose words are no whole tiles, side by side with zeros behind them: what is behind a row in
// memory may be no number.
struct Gathered {
  alignas(64) char values[TILE_ROWS * 64 * SIDE];
  static constexpr int64_t MOST = 64 * SIDE / 4; // words of a row

  // The same left operand from here, if its rows fit.
  Left from(const Left &left, int64_t rows) {
    const int64_t words = left.segments * left.depth, all = (words + SIDE - 1) / SIDE * SIDE;
    for (int64_t r = 0; r < rows; r++) {
      char *to = values + r * all * 4;
      for (int64_t s = 0; s < left.segments; s++) {
        memcpy(to + s * left.depth * 4, left.p + r * left.row_stride + s * left.segment_stride,
               (size_t)(left.depth * 4));
      }
      memset(to + words * 4, 0, (size_t)((all - words) * 4));
    }
    return {values, all * 4, all, 1, 0};
  }
};

// Adds the products of a left operand of whole tiles to the sums. Rows that are not there are read
// all the same, whatever they hold: their sums are left where they are.
template <int COLUMN_TILES>
LEVIT_INLINE void add_tiles(const Left &left, bool two, const float *panel) {
  constexpr int64_t PITCH = COLUMN_TILES * SIDE * 4;
  const char *words = (const char *)panel;
  for (int64_t s = 0; s < left.segments; s++) {
    const char *row = left.p + s * left.segment_stride;
    for (int64_t k = 0; k < left.depth; k += SIDE) {
      LEVIT_TILE(loadd)(4, row, left.row_stride);
      LEVIT_TILE(loadd)(6, words, PITCH);
      LEVIT_DOT(0, 4, 6)
      if (COLUMN_TILES == 2) {
        LEVIT_TILE(loadd)(7, words + SIDE * 4, PITCH);
        LEVIT_DOT(1, 4, 7)
      }
      if (two) {
        LEVIT_TILE(loadd)(5, row + SIDE * left.row_stride, left.row_stride);
        LEVIT_DOT(2, 5, 6)
        if (COLUMN_TILES == 2) {
          LEVIT_DOT(3, 5, 7)
        }
      }
      row += SIDE * 4, words += SIDE * PITCH;
    }
  }
}

// Finishes ROWS rows of sums that lie in memory.
template <int ROWS, int COLUMN_TILES>
LEVIT_INLINE void finish_rows(const float *sums, const Product &product, int64_t first) {
  Tile<ROWS, COLUMN_TILES> tile;
  LEVIT_UNROLL for (int r = 0; r < ROWS; r++) {
    LEVIT_UNROLL for (int v = 0; v < COLUMN_TILES; v++) {
      const Vec sum = load(sums + ((first + r) * COLUMN_TILES + v) * SIDE);
      const Vec start = load(product.weights.start + v * SIDE);
      tile.at[r][v] = added((Number::Sum)sum, (Number::Sum)start);
    }
  }
  Product part = product;
  part.target = from_place(product.target, first * product.target.row_stride);
  part.copy = from_place(product.copy, first * product.copy.row_stride);
  if (product.residual) part.residual = beside(product.residual, product.target, first, 0);
  finish(tile, product.weights.scale, part);
}

template <int COLUMN_TILES>
__attribute__((noinline)) void product_block(const Product &product, int64_t rows) {
  constexpr int64_t PITCH = COLUMN_TILES * SIDE * 4;
  constexpr int TOGETHER = 4;
  Gathered gathered;
  Left left = product.left;
  if (left.depth % SIDE && left.segments * left.depth <= Gathered::MOST) {
    left = gathered.from(left, rows);
  }
  alignas(64) float sums[TILE_ROWS * COLUMN_TILES * SIDE];
  const bool two = rows > SIDE;
  LEVIT_TILE(zero)(0);
  LEVIT_TILE(zero)(1);
  LEVIT_TILE(zero)(2);
  LEVIT_TILE(zero)(3);
  if (left.depth % SIDE == 0) {
    add_tiles<COLUMN_TILES>(left, two, product.weights.panels);
  } else {
    // Whole tiles where they lie, and the rest of each segment gathered.
    const float *panel = product.weights.panels;
    for (int64_t s = 0; s < left.segments; s++) {
      const int64_t whole = left.depth / SIDE * SIDE, rest = left.depth - whole;
      const char *p = left.p + s * left.segment_stride;
      add_tiles<COLUMN_TILES>({p, left.row_stride, whole, 1, 0}, two, panel);
      panel += whole * COLUMN_TILES * SIDE;
      const Left last = gathered.from({p + whole * 4, left.row_stride, rest, 1, 0}, rows);
      add_tiles<COLUMN_TILES>(last, two, panel);
      panel += rest * COLUMN_TILES * SIDE;
    }
  }
  LEVIT_TILE(stored)(0, sums, PITCH);
  if (COLUMN_TILES == 2) LEVIT_TILE(stored)(1, sums + SIDE, PITCH);
  if (two) {
    float *second = sums + SIDE * COLUMN_TILES * SIDE;
    LEVIT_TILE(stored)(2, second, PITCH);
    if (COLUMN_TILES == 2) LEVIT_TILE(stored)(3, second + SIDE, PITCH);
  }
  int64_t r = 0;
  for (; r + TOGETHER <= rows; r += TOGETHER) {
    finish_rows<TOGETHER, COLUMN_TILES>(sums, product, r);
  }
  for (; r < rows; r++) finish_rows<1, COLUMN_TILES>(sums, product, r);
}

LEVIT_INLINE void multiply_panel(const Product &product, int64_t rows, int64_t columns) {
  (columns == PANEL ? product_block<2> : product_block<1>)(product, rows);
}

} // namespace
