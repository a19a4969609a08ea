// The softmax of a row of scores, in powers of two, and in the numbers that meet the values.
#pragma once
#include "store.h"
#include "tile.h"

namespace {

LEVIT_INLINE Vec sum_of(Vec a, Vec b) { return a + b; }

// 255 * 2^x for x <= 0, within 0.03, and 0 far below.
LEVIT_INLINE Vec bytes_of_exp2(Vec x) {
  x = maximum(x + splat(7.99435344f), pinned(splat(-10.0f)));
  const Vec magic = splat(12582912.0f); // 1.5 * 2^23: adding it rounds to a whole number
  const Vec shifted = x + magic;
  const Vec f = x - (shifted - magic);
  Vec p = f * splat(0.0558282f) + splat(0.24015361f);
  p = p * f + splat(0.69314718f);
  p = p * f + splat(1.0f);
  return (Vec)((VecInt)p + ((VecInt)shifted << 23));
}

// Scores of one row → powers of two, the largest of which is 1, or 255 of bytes; they lie at the
// row's beginning. Returns 1 / their sum.
LEVIT_INLINE float softmax_row(float *row, int64_t count) {
  Vec largest = load(row);
  for (int64_t i = WIDTH; i < count; i += WIDTH) largest = maximum(largest, load(row + i));
  largest = reduced(largest, maximum);
  Vec sum{};
  const Store smaller{(char *)row, 0, 16 * bytes_of(Number::DTYPE), Number::DTYPE, 1, 0};
  for (int64_t i = 0; i < count; i += 16) {
    Vec power[CHUNK];
    LEVIT_UNROLL for (int j = 0; j < CHUNK; j++) {
      const Vec x = load(row + i + j * WIDTH) - largest;
      if constexpr (Number::INTEGER) {
        power[j] = rounded(bytes_of_exp2(x));
      } else {
        power[j] = exp2(x);
        if (Number::DTYPE == LEVIT_BFLOAT16) power[j] = as_bfloat16(power[j]);
      }
      sum += power[j];
    }
    if constexpr (Number::INTEGER) {
      store_bytes((char *)row + i, power);
    } else {
      put<Number::DTYPE>(smaller, 0, i / 16, power);
    }
  }
  return 1.0f / reduced(sum, sum_of)[0];
}

} // namespace
