// Keys and values of one head, as products read them: words of keys in panels of PANEL keys (the
// last may have 16); words of two or four tokens' values in panels of columns.
#pragma once
#include <string.h>

#include "kernels.h"
#include "tile.h"
#include "transpose.h"

namespace {

struct PackedHead {
  float *keys, *values;           // words
  float *key_start, *value_start; // of the sums, of integers only
};

// Words of a sum that products read: whole steps, of which the last is filled up with zeros.
LEVIT_INLINE int64_t whole_steps(int64_t words) {
  return (words + ATTENTION_STEP - 1) / ATTENTION_STEP * ATTENTION_STEP;
}

// From unsigned bytes with 128 in the middle to signed ones.
constexpr uint8_t FLIP = Number::INTEGER ? 0x80 : 0;

// The start of sums over packed columns that undoes a zero point of the left operand.
LEVIT_INLINE void start_sums(const float *packed, int64_t depth, int64_t columns, uint32_t zeros,
                             float *start) {
  if constexpr (Number::INTEGER) {
    const Number::Left zero = Number::broadcast((const char *)&zeros);
    for (int64_t column = 0; column < columns; column += WIDTH) {
      const int64_t panel = column / PANEL * PANEL;
      const int64_t width = columns - panel < PANEL ? 16 : PANEL;
      const float *p = packed + panel * depth + (column - panel);
      VecInt sum{};
      for (int64_t k = 0; k < depth; k++) {
        sum = (VecInt)Number::dot((Number::Sum)sum, zero, load(p + k * width));
      }
      store(start + column, (Vec)-sum);
    }
  }
}

// Sixteen of them.
LEVIT_INLINE void zero_words(float *p) {
  LEVIT_UNROLL for (int i = 0; i < 16; i += WIDTH) store(p + i, Vec{});
}

LEVIT_INLINE void pack_keys(const char *keys, int64_t block_bytes, int64_t width, int64_t count,
                            const PackedHead &packed) {
  constexpr int WORDS = 16 / EACH; // of a row of a block
  const int64_t all = levit::padded(count), depth = whole_steps(width / EACH);
  for (int64_t key = 0; key < count; key += 16) {
    const int64_t column = key / PANEL * PANEL;
    const int64_t columns = all - column < PANEL ? 16 : PANEL;
    float *panel = packed.keys + column * depth + (key - column);
    const int64_t rows = count - key < 16 ? count - key : 16;
    for (int64_t block = 0; block < width / 16; block++) {
      const char *source = keys + block * block_bytes + key * WORDS * 4;
      float *target = panel + block * WORDS * columns;
      if constexpr (EACH == 1) {
        transpose16((const float *)source, 16, rows, target, columns);
        continue;
      } else {
        alignas(64) float part[16 * WORDS];
        const int64_t there = rows * WORDS;
        for (int64_t i = there / WIDTH * WIDTH; i < 16 * WORDS; i += WIDTH) store(part + i, Vec{});
        if (Number::INTEGER || rows < 16) {
          memcpy(part, source, (size_t)(there * 4));
          if (Number::INTEGER) {
            for (int64_t i = 0; i < 16 * WORDS; i += WIDTH) {
              store(part + i, (Vec)((VecInt)load(part + i) ^ (int32_t)0x80808080));
            }
          }
          source = (const char *)part;
        }
        transpose_narrow<WORDS>((const float *)source, target, columns);
      }
    }
    for (int64_t k = width / EACH; k < depth; k++) zero_words(panel + k * columns);
  }
  start_sums(packed.keys, depth, all, 0x80808080, packed.key_start);
}

LEVIT_INLINE void pack_values(const char *values, int64_t block_bytes, int64_t width, int64_t count,
                              const PackedHead &packed) {
  constexpr int64_t ROW = 64 / EACH; // bytes
  const int64_t words = (count + EACH - 1) / EACH, depth = whole_steps(words);
  for (int64_t column = 0; column < width; column += 16) {
    const int64_t panel = column / PANEL * PANEL;
    const int64_t columns = width - panel < PANEL ? 16 : PANEL;
    const char *source = values + column / 16 * block_bytes;
    char *target = (char *)(packed.values + panel * depth + (column - panel));
    for (int64_t token = 0; token < count; token += EACH) {
      Bytes row[4];
      LEVIT_UNROLL for (int i = 0; i < 4; i++) {
        const int64_t from = token + i * 16 / ROW;
        row[i] = from < count ? load_bytes(source + token * ROW + i * 16) ^ FLIP : Bytes{};
      }
      if constexpr (EACH == 4) {
        interleave_bytes(row, target);
      } else {
        interleave_halves(row, row + 2, target);
      }
      target += columns * 4;
    }
    for (int64_t k = words; k < depth; k++, target += columns * 4) zero_words((float *)target);
  }
  start_sums(packed.values, depth, width, 0, packed.value_start);
}

} // namespace
