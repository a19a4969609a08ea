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
// memory may be no number. `to` has room for them and for 16 words more, which the last store
// reaches into.
LEVIT_INLINE Left gathered(const Left &left, int64_t rows, char *to) {
  const int64_t words = left.segments * left.depth, all = (words + SIDE - 1) / SIDE * SIDE;
  for (int64_t r = 0; r < rows; r++) {
    char *values = to + r * all * 4;
    _mm512_storeu_si512(values + (all - SIDE) * 4, _mm512_setzero_si512());
    for (int64_t s = 0; s < left.segments; s++, values += left.depth * 4) {
      const char *p = left.p + r * left.row_stride + s * left.segment_stride;
      for (int64_t k = 0; k < left.depth; k += SIDE) {
        const int64_t rest = left.depth - k < SIDE ? left.depth - k : SIDE;
        const __mmask16 there = (__mmask16)((1u << rest) - 1);
        _mm512_storeu_si512(values + k * 4, _mm512_maskz_loadu_epi32(there, p + k * 4));
      }
    }
  }
  return {to, all * 4, all, 1, 0};
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

// A block's sums, which wait in memory while the tiles are at the next block's: vectors finish some
// of their rows after each step of these.
struct Waiting {
  static constexpr int TOGETHER = 4;
  Product product;
  int64_t rows = 0, done = 0;
  bool wide;
  alignas(64) float sums[TILE_ROWS * 2 * SIDE];

  __attribute__((noinline)) void finish_some() {
    if (wide) {
      finish_next<2>();
    } else {
      finish_next<1>();
    }
  }
  template <int COLUMN_TILES> LEVIT_INLINE void finish_next() {
    if (done + TOGETHER <= rows) {
      finish_rows<TOGETHER, COLUMN_TILES>(sums, product, done);
      done += TOGETHER;
    } else {
      finish_rows<1, COLUMN_TILES>(sums, product, done++);
    }
  }
};

// Products of blocks of rows with panels of weights, one after another.
class Panels {
public:
  void multiply(const Product &product, int64_t rows, int64_t columns) {
    if (columns == PANEL) {
      multiply_block<2>(product, rows);
    } else {
      multiply_block<1>(product, rows);
    }
  }
  // What still waits.
  void finish() {
    while (last_->done < last_->rows) last_->finish_some();
  }
  ~Panels() { finish(); }

private:
  template <int COLUMN_TILES>
  __attribute__((noinline)) void multiply_block(const Product &product, int64_t rows);
  template <int COLUMN_TILES>
  LEVIT_INLINE void add_tiles(const Left &left, bool two, const float *panel, const float *ahead,
                              int64_t ahead_stride);

  Tiles tiles_;
  Waiting waiting_[2];
  Waiting *last_ = waiting_, *next_ = waiting_ + 1;
};

// Adds the products of a left operand of whole tiles to the sums. Rows that are not there are read
// all the same, whatever they hold: their sums are left where they are.
template <int COLUMN_TILES>
LEVIT_INLINE void Panels::add_tiles(const Left &left, bool two, const float *panel,
                                    const float *ahead, int64_t ahead_stride) {
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
      for (int64_t i = 0; i < ahead_stride; i++, ahead += 16) __builtin_prefetch(ahead);
      if (last_->done < last_->rows) last_->finish_some();
    }
  }
}

template <int COLUMN_TILES> void Panels::multiply_block(const Product &product, int64_t rows) {
  constexpr int64_t PITCH = COLUMN_TILES * SIDE * 4;
  constexpr int64_t MOST = 256; // words of a row that are gathered
  alignas(64) char aside[TILE_ROWS * MOST * 4 + SIDE * 4];
  Left left = product.left;
  if (left.depth % SIDE && left.segments * left.depth <= MOST) left = gathered(left, rows, aside);
  const bool two = rows > SIDE;
  LEVIT_TILE(zero)(0);
  LEVIT_TILE(zero)(1);
  LEVIT_TILE(zero)(2);
  LEVIT_TILE(zero)(3);
  const float *panel = product.weights.panels;
  if (left.depth % SIDE == 0) {
    add_tiles<COLUMN_TILES>(left, two, panel, product.ahead, product.ahead_stride);
  } else {
    // Whole tiles where they lie, and the rest of each segment gathered.
    for (int64_t s = 0; s < left.segments; s++) {
      const int64_t whole = left.depth / SIDE * SIDE, rest = left.depth - whole;
      const char *p = left.p + s * left.segment_stride;
      add_tiles<COLUMN_TILES>({p, left.row_stride, whole, 1, 0}, two, panel, panel, 0);
      panel += whole * COLUMN_TILES * SIDE;
      const Left last = gathered({p + whole * 4, left.row_stride, rest, 1, 0}, rows, aside);
      add_tiles<COLUMN_TILES>(last, two, panel, panel, 0);
      panel += rest * COLUMN_TILES * SIDE;
    }
  }
  finish();
  LEVIT_TILE(stored)(0, next_->sums, PITCH);
  if (COLUMN_TILES == 2) LEVIT_TILE(stored)(1, next_->sums + SIDE, PITCH);
  if (two) {
    float *second = next_->sums + SIDE * COLUMN_TILES * SIDE;
    LEVIT_TILE(stored)(2, second, PITCH);
    if (COLUMN_TILES == 2) LEVIT_TILE(stored)(3, second + SIDE, PITCH);
  }
  next_->product = product, next_->rows = rows, next_->done = 0, next_->wide = COLUMN_TILES == 2;
  Waiting *const was = last_;
  last_ = next_, next_ = was;
}

} // namespace
