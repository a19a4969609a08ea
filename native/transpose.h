// Rows to columns: how keys, values and weights come into panels.
#pragma once
#include "vector.h"

namespace {

// Interleaving rows i and i + WIDTH / 2, as often as WIDTH has halves, exchanges rows and columns.
LEVIT_INLINE Vec interleaved_low(Vec a, Vec b) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#elif defined(__AVX2__)
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#else
  return __builtin_shufflevector(a, b, 0, 4, 1, 5);
#endif
}

LEVIT_INLINE Vec interleaved_high(Vec a, Vec b) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15,
                                 31);
#elif defined(__AVX2__)
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
  return __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
}

// Element (r, c) of `source` to (c, r) of `target`; rows from `rows` on are zeros.
LEVIT_INLINE void transpose16(const float *source, int64_t source_stride, int64_t rows,
                              float *target, int64_t target_stride) {
  for (int64_t top = 0; top < 16; top += WIDTH) {
    for (int64_t left = 0; left < 16; left += WIDTH) {
      Vec x[WIDTH], y[WIDTH];
      LEVIT_UNROLL for (int i = 0; i < WIDTH; i++) {
        x[i] = top + i < rows ? load(source + (top + i) * source_stride + left) : Vec{};
      }
      LEVIT_UNROLL for (int half = 1; half < WIDTH; half *= 2) {
        LEVIT_UNROLL for (int i = 0; i < WIDTH / 2; i++) {
          y[2 * i] = interleaved_low(x[i], x[i + WIDTH / 2]);
          y[2 * i + 1] = interleaved_high(x[i], x[i + WIDTH / 2]);
        }
        LEVIT_UNROLL for (int i = 0; i < WIDTH; i++) x[i] = y[i];
      }
      LEVIT_UNROLL for (int i = 0; i < WIDTH; i++) {
        store(target + (left + i) * target_stride + top, x[i]);
      }
    }
  }
}

// Every second entry of two vectors side by side, from the first or the second on.
LEVIT_INLINE Vec evens(Vec a, Vec b) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
#elif defined(__AVX2__)
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
#else
  return __builtin_shufflevector(a, b, 0, 2, 4, 6);
#endif
}

LEVIT_INLINE Vec odds(Vec a, Vec b) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#elif defined(__AVX2__)
  return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
#else
  return __builtin_shufflevector(a, b, 1, 3, 5, 7);
#endif
}

// Parts COUNT vectors into every second word of theirs, again and again down to DOWN vectors.
template <int COUNT, int DOWN> LEVIT_INLINE void part_words(Vec *x) {
  if constexpr (COUNT > DOWN) {
    constexpr int HALF_COUNT = COUNT / 2;
    Vec y[COUNT];
    LEVIT_UNROLL for (int i = 0; i < HALF_COUNT; i++) {
      y[i] = evens(x[2 * i], x[2 * i + 1]);
      y[HALF_COUNT + i] = odds(x[2 * i], x[2 * i + 1]);
    }
    LEVIT_UNROLL for (int i = 0; i < COUNT; i++) x[i] = y[i];
    part_words<HALF_COUNT, DOWN>(x);
    part_words<HALF_COUNT, DOWN>(x + HALF_COUNT);
  }
}

// 16 rows of WORDS words (4 or 8), one after another, to columns of 16, which come out of
// `part_words` in the order of their numbers' reversed bits.
template <int WORDS>
LEVIT_INLINE void transpose_narrow(const float *source, float *target, int64_t target_stride) {
  constexpr int COUNT = 16 * WORDS / WIDTH, EACH_COLUMN = 16 / WIDTH;
  Vec x[COUNT];
  LEVIT_UNROLL for (int i = 0; i < COUNT; i++) x[i] = load(source + i * WIDTH);
  part_words<COUNT, EACH_COLUMN>(x);
  LEVIT_UNROLL for (int part = 0; part < WORDS; part++) {
    const int column =
        WORDS == 4 ? (part & 1) * 2 + part / 2 : (part & 1) * 4 + (part & 2) + part / 4;
    LEVIT_UNROLL for (int i = 0; i < EACH_COLUMN; i++) {
      store(target + column * target_stride + i * WIDTH, x[part * EACH_COLUMN + i]);
    }
  }
}

typedef uint8_t Bytes __attribute__((vector_size(16)));
typedef uint8_t BytesLoose __attribute__((vector_size(16), aligned(1), may_alias));
typedef uint16_t Shorts __attribute__((vector_size(16)));

LEVIT_INLINE Bytes load_bytes(const char *p) { return *(const BytesLoose *)p; }
LEVIT_INLINE void store_words(char *p, Shorts x) { *(BytesLoose *)p = (Bytes)x; }

LEVIT_INLINE Shorts low_shorts(Shorts a, Shorts b) {
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
}
LEVIT_INLINE Shorts high_shorts(Shorts a, Shorts b) {
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}
LEVIT_INLINE Shorts low_bytes(Bytes a, Bytes b) {
  return (Shorts)__builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7,
                                         23);
}
LEVIT_INLINE Shorts high_bytes(Bytes a, Bytes b) {
  return (Shorts)__builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30,
                                         15, 31);
}

// Four rows of 16 bytes to 16 words, each a column.
LEVIT_INLINE void interleave_bytes(const Bytes *row, char *target) {
  const Shorts a = low_bytes(row[0], row[1]), b = high_bytes(row[0], row[1]);
  const Shorts c = low_bytes(row[2], row[3]), d = high_bytes(row[2], row[3]);
  store_words(target, low_shorts(a, c));
  store_words(target + 16, high_shorts(a, c));
  store_words(target + 32, low_shorts(b, d));
  store_words(target + 48, high_shorts(b, d));
}

// Two rows of 16 halves to 16 words, each a column.
LEVIT_INLINE void interleave_halves(const Bytes *first, const Bytes *second, char *target) {
  LEVIT_UNROLL for (int i = 0; i < 2; i++) {
    store_words(target + 32 * i, low_shorts((Shorts)first[i], (Shorts)second[i]));
    store_words(target + 32 * i + 16, high_shorts((Shorts)first[i], (Shorts)second[i]));
  }
}

} // namespace
