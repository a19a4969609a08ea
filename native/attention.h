// Attention of some queries of one head at a time: scores, softmax, values and the activation, in
// registers and a scratch that lies in L1 (from some 500 keys on partly in L2).
//
// The form is the same for any number of keys: a tile of queries meets all keys, panel by panel,
// and its scores wait in the scratch (14 x 208 floats for 196 keys); a pass over them makes powers
// of two; the same tile then meets the values, and 1 / sum is in its epilogue. Keeping whole rows
// of scores in registers instead saves that pass a load and a store, but allows fewer rows:
// docs/native.md.
//
// In bytes the powers are rounded to 0 … 255 of their row's largest, and divided by the sum of what
// they were rounded to, so that each row's weights still sum to one.
#pragma once
#include <string.h>

#include "attention_products.h"
#include "pack_heads.h"
#include "softmax.h"

namespace {

using levit::AttentionWork;

void attention(const AttentionWork &work, float *scratch) {
  const int64_t key_width = levit::padded(work.key_width), keys = levit::padded(work.key_count);
  const int64_t value_width = levit::padded(work.value_width);
  const int64_t tiles = (work.query_count + QUERIES - 1) / QUERIES;
  const int64_t stride = keys + 16; // no power of two, or rows share few sets of the cache
  const int64_t size = size_of(Number::DTYPE), row = 16 * size;
  const int64_t key_words = whole_steps(key_width / EACH);
  const int64_t token_words = whole_steps((work.key_count + EACH - 1) / EACH);
  PackedHead packed;
  packed.keys = scratch;
  packed.key_start = packed.keys + key_words * keys;
  packed.values = packed.key_start + keys;
  packed.value_start = packed.values + (EACH == 1 ? 0 : token_words * value_width);
  float *powers = packed.value_start + value_width;
  alignas(64) float inverse[QUERIES];
  alignas(64) char aside[QUERIES * PANEL * 4];
  int64_t packed_unit = -1;
  for (int64_t at = work.tiles.begin; at < work.tiles.end; at++) {
    const int64_t unit = at / tiles, tile = at % tiles;
    const int64_t head = unit / work.images, image = unit % work.images;
    const char *head_values =
        work.values + head * (value_width / 16) * work.value_block + image * work.key_count * row;
    if (unit != packed_unit) {
      const char *head_keys =
          work.keys + head * (key_width / 16) * work.key_block + image * work.key_count * row;
      pack_keys(head_keys, work.key_block, key_width, work.key_count, packed);
      if constexpr (EACH > 1) {
        pack_values(head_values, work.value_block, value_width, work.key_count, packed);
      }
      packed_unit = unit;
    }
    const int64_t first = work.query_count * tile / tiles;
    const int64_t rows = work.query_count * (tile + 1) / tiles - first;
    Scores scores;
    scores.queries = {work.queries + head * (key_width / 16) * work.query_block +
                          (image * work.query_count + first) * row,
                      row, row / 4, key_width / 16, work.query_block};
#if defined(LEVIT_AMX)
    if (ATTENTION_IN_TILES) {
      scores.queries = gathered(scores.queries, rows, (char *)(powers + QUERIES * stride));
    }
#endif
    const float *table = work.table + (head * work.query_count + first) * work.table_stride;
    scores.table_stride = work.table_stride;
    scores.scale = Number::INTEGER ? work.score_scale[head] : 1;
    scores.target_stride = stride;
    for (int64_t column = 0; column < keys; column += PANEL) {
      scores.keys = packed.keys + column * key_words;
      scores.start = packed.key_start + column;
      scores.table = table + column;
      scores.target = powers + column;
      score_panel(scores, rows, keys - column < PANEL ? 16 : PANEL);
    }
    const float *weights = nullptr;
    if (!Number::INTEGER && work.positions) {
      weights = work.positions + (head * work.query_count + first) * keys;
      softmax<true>(powers, stride, rows, keys, inverse);
      add_positions(powers, stride, rows, keys, weights, inverse, work.rest[head]);
    } else {
      softmax<false>(powers, stride, rows, keys, inverse);
    }
    // The next tile's rows of the tables: they are read once an image, from beyond L2.
    for (int64_t r = 0; r < rows; r++) {
      const float *next = table + (rows + r) * work.table_stride;
      for (int64_t i = 0; i < keys; i += 16) __builtin_prefetch(next + i);
      if (!weights) continue;
      next = weights + (rows + r) * keys;
      for (int64_t i = 0; i < keys; i += 16) __builtin_prefetch(next + i);
    }
    if (ATTENTION_IN_TILES) { // up to whole steps: what lies there may be no number
      const int64_t bytes = keys * size;
      for (int64_t r = 0; r < rows; r++) {
        memset((char *)(powers + r * stride) + bytes, 0, (size_t)(token_words * 4 - bytes));
      }
    }
    Values values;
    values.weights = {(const char *)powers, stride * 4, token_words, 1, 0};
    values.value_block = work.value_block / 4;
    values.inverse = inverse;
    values.product.activation = work.activation;
    values.product.residual = nullptr;
    values.product.copy.p = nullptr;
    const int64_t target_size = size_of(work.target.dtype);
    const Store target =
        from_place(work.target, (image * work.query_count + first) * work.target.row_stride +
                                    head * work.value_width * target_size);
    for (int64_t column = 0; column < value_width; column += PANEL) {
      const int64_t columns = value_width - column < PANEL ? 16 : PANEL;
      const bool fits = column + columns <= work.value_width;
      values.values = EACH == 1 ? (const float *)(head_values + column / 16 * work.value_block)
                                : packed.values + column * token_words;
      values.start = packed.value_start + column;
      values.scale = work.value_scale + head * value_width + column;
      values.offset = work.value_offset + head * value_width + column;
      Store place = from_place(target, column * target_size);
      if (!fits) {
        place.p = aside, place.row_stride = PANEL * target_size;
        place.chunk_stride = 16 * target_size;
      }
      values.product.target = place;
      value_panel(values, rows, columns);
      if (fits) continue;
      // Channels that fill no whole vector: storing one would write into the next head's. After the
      // last of them there is room, and what fills up a word must be a number: 0 times it is added.
      int64_t kept = work.value_width - column;
      if (head + 1 == work.heads) {
        const int64_t room =
            levit::padded(work.heads * work.value_width) - head * work.value_width - column;
        kept = room < columns ? room : columns;
      }
      const size_t bytes = (size_t)(kept * target_size);
      for (int64_t r = 0; r < rows; r++) {
        memcpy(target.p + r * target.row_stride + column * target_size,
               aside + r * PANEL * target_size, bytes);
      }
    }
  }
}

} // namespace
