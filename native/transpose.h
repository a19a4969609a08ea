// 16 x 16 floats, rows to columns: how keys and weights come into panels.
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

} // namespace
