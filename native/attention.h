// Attention of some queries of one head at a time: scores, softmax, values and the activation, in
// registers and a scratch that lies in L1 (from some 500 keys on partly in L2).
//
// The form is the same for any number of keys: a tile of queries meets all keys, panel by panel,
// and its scores wait in the scratch (14 x 208 floats for 196 keys); a pass over them makes powers
// of two; the same tile then meets the values, and 1 / sum is in its epilogue. Keeping whole rows
// of scores in registers instead saves that pass a load and a store, but allows fewer rows:
// docs/native.md.
#pragma once
#include <string.h>

#include "abi.h"
#include "kernels.h"
#include "tile.h"
#include "transpose.h"

namespace {

using levit::AttentionWork;

struct Scores {
  Left queries;
  const float *keys; // a panel
  const float *table;
  int64_t table_stride;
  Place target;
};

template <int ROWS, int VECTORS> __attribute__((noinline)) void scores_tile(const Scores &scores) {
  Tile<ROWS, VECTORS> sum;
  LEVIT_UNROLL for (int r = 0; r < ROWS; r++) {
    LEVIT_UNROLL for (int v = 0; v < VECTORS; v++) {
      sum.at[r][v] = load(scores.table + r * scores.table_stride + v * WIDTH);
    }
  }
  multiply(sum, scores.queries, Packed<VECTORS>{scores.keys, scores.keys, 0});
  LEVIT_UNROLL for (int r = 0; r < ROWS; r++) {
    LEVIT_UNROLL for (int v = 0; v < VECTORS; v++) store(scores.target.at(r, v), sum.at[r][v]);
  }
}

struct Values {
  Left weights; // rows of powers of two
  const float *values;
  int64_t value_block;
  const float *inverse; // of the sum of each row
  Place target;
  int64_t activation;
};

template <int ROWS, int VECTORS> __attribute__((noinline)) void values_tile(const Values &values) {
  Tile<ROWS, VECTORS> sum;
  LEVIT_UNROLL for (int r = 0; r < ROWS; r++) {
    LEVIT_UNROLL for (int v = 0; v < VECTORS; v++) sum.at[r][v] = Vec{};
  }
  multiply(sum, values.weights, Blocked<VECTORS>{values.values, values.value_block});
  if (values.activation == LEVIT_HARD_SWISH) {
    LEVIT_UNROLL for (int r = 0; r < ROWS; r++) {
      LEVIT_UNROLL for (int v = 0; v < VECTORS; v++) {
        store(values.target.at(r, v), hard_swish(sum.at[r][v] * splat(values.inverse[r])));
      }
    }
    return;
  }
  LEVIT_UNROLL for (int r = 0; r < ROWS; r++) {
    LEVIT_UNROLL for (int v = 0; v < VECTORS; v++) {
      store(values.target.at(r, v), sum.at[r][v] * splat(values.inverse[r]));
    }
  }
  if (values.activation != LEVIT_IDENTITY) {
    activate_stored<ROWS, VECTORS>(values.target, values.activation);
  }
}

template <int VECTORS, class ALL> struct AttentionTiles;
template <int VECTORS, int... ROWS> struct AttentionTiles<VECTORS, Heights<ROWS...>> {
  static constexpr void (*scores[])(const Scores &) = {scores_tile<ROWS, VECTORS>...};
  static constexpr void (*values[])(const Values &) = {values_tile<ROWS, VECTORS>...};
};
typedef AttentionTiles<TILE_VECTORS, AllHeights> WholeTiles;
typedef AttentionTiles<HALF, AllHeights> HalfTiles;

// Scores of one row → powers of two, the largest of which is 1. Returns 1 / their sum.
LEVIT_INLINE float softmax_row(float *row, int64_t count) {
  Vec largest = load(row);
  for (int64_t i = WIDTH; i < count; i += WIDTH) largest = maximum(largest, load(row + i));
  largest = reduced(largest, maximum);
  Vec sum{};
  for (int64_t i = 0; i < count; i += WIDTH) {
    Vec power = exp2(load(row + i) - largest);
    store(row + i, power);
    sum += power;
  }
  return 1.0f / reduced(sum, [](Vec a, Vec b) { return a + b; })[0];
}

// Keys of one head → panels of PANEL keys (the last may have 16), each (key_width, keys).
LEVIT_INLINE void pack_keys(const AttentionWork &work, const float *keys, float *packed) {
  const int64_t width = levit::padded(work.key_width), count = levit::padded(work.key_count);
  for (int64_t key = 0; key < work.key_count; key += 16) {
    const int64_t column = key / PANEL * PANEL;
    const int64_t columns = count - column < PANEL ? 16 : PANEL;
    float *panel = packed + column * width + (key - column);
    for (int64_t block = 0; block < width / 16; block++) {
      transpose16(keys + block * work.key_block + key * 16, 16, work.key_count - key,
                  panel + block * 16 * columns, columns);
    }
  }
}

void attention(const AttentionWork &work, float *scratch) {
  const int64_t key_width = levit::padded(work.key_width), keys = levit::padded(work.key_count);
  const int64_t value_width = levit::padded(work.value_width);
  const int64_t tiles = (work.query_count + TILE_ROWS - 1) / TILE_ROWS;
  const int64_t stride = keys + 16; // no power of two, or rows share few sets of the cache
  float *packed = scratch, *powers = scratch + key_width * keys;
  alignas(64) float inverse[TILE_ROWS], whole[TILE_ROWS * PANEL];
  int64_t packed_unit = -1;
  for (int64_t at = work.tiles.begin; at < work.tiles.end; at++) {
    const int64_t unit = at / tiles, tile = at % tiles;
    const int64_t head = unit / work.images, image = unit % work.images;
    if (unit != packed_unit) {
      pack_keys(work,
                work.keys + head * (key_width / 16) * work.key_block + image * work.key_count * 16,
                packed);
      packed_unit = unit;
    }
    const int64_t first = work.query_count * tile / tiles;
    const int64_t rows = work.query_count * (tile + 1) / tiles - first;
    Scores scores;
    scores.queries = {work.queries + head * (key_width / 16) * work.query_block +
                          (image * work.query_count + first) * 16,
                      16, 16, key_width / 16, work.query_block};
    const float *table = work.table + (head * work.query_count + first) * work.table_stride;
    scores.table_stride = work.table_stride;
    for (int64_t column = 0; column < keys; column += PANEL) {
      const bool half = keys - column < PANEL;
      scores.keys = packed + column * key_width;
      scores.table = table + column;
      scores.target = {powers + column, stride, 16};
      (half ? HalfTiles::scores : WholeTiles::scores)[rows - 1](scores);
    }
    for (int64_t r = 0; r < rows; r++) {
      inverse[r] = softmax_row(powers + r * stride, keys);
      // The next tile's rows of the table: it is read once an image, from beyond L2.
      const float *next = table + (rows + r) * work.table_stride;
      for (int64_t i = 0; i < keys; i += 16) __builtin_prefetch(next + i);
    }
    Values values;
    values.weights = {powers, stride, work.key_count, 1, 0};
    values.value_block = work.value_block;
    values.inverse = inverse;
    values.activation = work.activation;
    float *target = work.target + (image * work.query_count + first) * work.target_stride +
                    head * work.value_width;
    for (int64_t column = 0; column < value_width; column += PANEL) {
      const int64_t columns = value_width - column < PANEL ? 16 : PANEL;
      const bool fits = column + columns <= work.value_width;
      values.values = work.values + (head * value_width + column) / 16 * work.value_block +
                      image * work.key_count * 16;
      values.target =
          fits ? Place{target + column, work.target_stride, 16} : Place{whole, PANEL, 16};
      (columns < PANEL ? HalfTiles::values : WholeTiles::values)[rows - 1](values);
      if (fits) continue;
      // Channels that fill no whole vector: storing one would write into the next head's.
      const size_t bytes = (size_t)(work.value_width - column) * sizeof(float);
      for (int64_t r = 0; r < rows; r++) {
        memcpy(target + r * work.target_stride + column, whole + r * PANEL, bytes);
      }
    }
  }
}

} // namespace
