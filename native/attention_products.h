// The products of attention: tiles of sums in registers, or AMX's.
#pragma once
#include "attention_ends.h"
#if defined(LEVIT_AMX)
#include "attention_amx.h"
#endif

namespace {

template <int ROWS, int VECTORS> __attribute__((noinline)) void scores_tile(const Scores &scores) {
  Tile<ROWS, VECTORS> sum;
  LEVIT_UNROLL for (int r = 0; r < ROWS; r++) {
    LEVIT_UNROLL for (int v = 0; v < VECTORS; v++) {
      sum.at[r][v] =
          (Number::Sum)load(Number::INTEGER ? scores.start + v * WIDTH
                                            : scores.table + r * scores.table_stride + v * WIDTH);
    }
  }
  multiply(sum, scores.queries, Packed<VECTORS>{scores.keys, scores.keys, 0});
  const Vec scale = splat(scores.scale);
  LEVIT_UNROLL for (int r = 0; r < ROWS; r++) {
    LEVIT_UNROLL for (int v = 0; v < VECTORS; v++) {
      Vec x = (Vec)sum.at[r][v];
      if (Number::INTEGER) {
        x = value_on(load(scores.table + r * scores.table_stride + v * WIDTH), sum.at[r][v], scale);
      }
      store(scores.target + r * scores.target_stride + v * WIDTH, x);
    }
  }
}

template <int ROWS, int VECTORS> __attribute__((noinline)) void values_tile(const Values &values) {
  Tile<ROWS, VECTORS> sum;
  LEVIT_UNROLL for (int v = 0; v < VECTORS; v++) {
    const Vec start = Number::INTEGER ? load(values.start + v * WIDTH) : Vec{};
    LEVIT_UNROLL for (int r = 0; r < ROWS; r++) sum.at[r][v] = (Number::Sum)start;
  }
  if constexpr (EACH == 1) {
    multiply(sum, values.weights, Blocked<VECTORS>{values.values, values.value_block});
  } else {
    multiply(sum, values.weights, Packed<VECTORS>{values.values, values.values, 0});
  }
  finish_values(sum, values, 0);
}

template <int VECTORS, class ALL> struct AttentionTiles;
template <int VECTORS, int... ROWS> struct AttentionTiles<VECTORS, Heights<ROWS...>> {
  static constexpr void (*scores[])(const Scores &) = {scores_tile<ROWS, VECTORS>...};
  static constexpr void (*values[])(const Values &) = {values_tile<ROWS, VECTORS>...};
};
typedef AttentionTiles<TILE_VECTORS, AllHeights> WholeTiles;
typedef AttentionTiles<HALF, AllHeights> HalfTiles;

LEVIT_INLINE void score_panel(const Scores &scores, int64_t rows, int64_t columns) {
#if defined(LEVIT_AMX)
  if constexpr (ATTENTION_IN_TILES) {
    return (columns == PANEL ? score_block<2> : score_block<1>)(scores);
  }
#endif
  (columns == PANEL ? WholeTiles::scores : HalfTiles::scores)[rows - 1](scores);
}

LEVIT_INLINE void value_panel(const Values &values, int64_t rows, int64_t columns) {
#if defined(LEVIT_AMX)
  if constexpr (ATTENTION_IN_TILES) {
    return (columns == PANEL ? value_block<2> : value_block<1>)(values, rows);
  }
#endif
  (columns == PANEL ? WholeTiles::values : HalfTiles::values)[rows - 1](values);
}

} // namespace
