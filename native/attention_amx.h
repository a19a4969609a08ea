// The products of attention of bfloat16 on AMX: 16 queries, and 16 or 32 keys or columns of values.
#pragma once
#include "amx.h"
#include "attention_ends.h"

namespace {

// The sums of 16 rows, in tiles 0 and 1: both operands are whole tiles deep.
template <int COLUMN_TILES> LEVIT_INLINE void add_rows(const Left &left, const float *panel) {
  constexpr int64_t PITCH = COLUMN_TILES * SIDE * 4;
  const char *row = left.p, *words = (const char *)panel;
  for (int64_t k = 0; k < left.depth; k += SIDE) {
    LEVIT_TILE(loadd)(4, row, left.row_stride);
    LEVIT_TILE(loadd)(6, words, PITCH);
    LEVIT_DOT(0, 4, 6)
    if (COLUMN_TILES == 2) {
      LEVIT_TILE(loadd)(7, words + SIDE * 4, PITCH);
      LEVIT_DOT(1, 4, 7)
    }
    row += SIDE * 4, words += SIDE * PITCH;
  }
}

// Nothing but the table is added to the scores, so that no vector sees them.
template <int COLUMN_TILES> __attribute__((noinline)) void score_block(const Scores &scores) {
  const int64_t table_stride = scores.table_stride * 4, target_stride = scores.target_stride * 4;
  LEVIT_TILE(loadd)(0, scores.table, table_stride);
  if (COLUMN_TILES == 2) LEVIT_TILE(loadd)(1, scores.table + SIDE, table_stride);
  add_rows<COLUMN_TILES>(scores.queries, scores.keys);
  LEVIT_TILE(stored)(0, scores.target, target_stride);
  if (COLUMN_TILES == 2) LEVIT_TILE(stored)(1, scores.target + SIDE, target_stride);
}

template <int ROWS, int COLUMN_TILES>
LEVIT_INLINE void finish_value_rows(const float *sums, const Values &values, int64_t first) {
  Tile<ROWS, COLUMN_TILES> tile;
  LEVIT_UNROLL for (int r = 0; r < ROWS; r++) {
    LEVIT_UNROLL for (int v = 0; v < COLUMN_TILES; v++) {
      tile.at[r][v] = (Number::Sum)load(sums + ((first + r) * COLUMN_TILES + v) * SIDE);
    }
  }
  finish_values(tile, values, first);
}

template <int COLUMN_TILES>
__attribute__((noinline)) void value_block(const Values &values, int64_t rows) {
  constexpr int64_t PITCH = COLUMN_TILES * SIDE * 4;
  constexpr int TOGETHER = 4;
  alignas(64) float sums[SIDE * COLUMN_TILES * SIDE];
  LEVIT_TILE(zero)(0);
  LEVIT_TILE(zero)(1);
  add_rows<COLUMN_TILES>(values.weights, values.values);
  LEVIT_TILE(stored)(0, sums, PITCH);
  if (COLUMN_TILES == 2) LEVIT_TILE(stored)(1, sums + SIDE, PITCH);
  int64_t r = 0;
  for (; r + TOGETHER <= rows; r += TOGETHER) {
    finish_value_rows<TOGETHER, COLUMN_TILES>(sums, values, r);
  }
  for (; r < rows; r++) finish_value_rows<1, COLUMN_TILES>(sums, values, r);
}

} // namespace
