// The softmax of a row of scores, in powers of two, and in the numbers that meet the values.
#pragma once
#include "store.h"
#include "tile.h"

namespace {

// 2^x, or 255 times that of bytes, for x <= 0 (below -126 next to nothing) with the polynomial of
// degree 3 whose largest relative error is least: 7.5e-5, of 255 a fiftieth, of a bfloat16 a
// fiftieth of its last place.
LEVIT_INLINE Vec rough_exp2(Vec x) {
  constexpr float TOP = Number::INTEGER ? 255.0f : 1.0f;
#if defined(__AVX512F__)
  Vec whole;
  __asm__("vrndscaleps $8, %1, %0" : "=v"(whole) : "v"(x));
  const Vec f = x - whole;
#else
  x = maximum(x, pinned(splat(-126.0f)));
  const Vec magic = splat(12582912.0f); // 1.5 * 2^23: adding it rounds to a whole number
  const Vec shifted = x + magic, f = x - (shifted - magic);
#endif
  Vec p = fused(f, splat(TOP * 0.05517166f), splat(TOP * 0.24261114f));
  p = fused(p, f, splat(TOP * 0.69326099f));
  p = fused(p, f, splat(TOP * 0.99992807f));
#if defined(__AVX512F__)
  __asm__("vscalefps %1, %0, %0" : "+v"(p) : "v"(whole));
  return p;
#else
  return (Vec)((VecInt)p + ((VecInt)shifted << 23));
#endif
}

// The power of one vector of scores, `top` being their row's largest.
LEVIT_INLINE Vec power_of(Vec score, Vec top) {
  if constexpr (Number::DTYPE == LEVIT_FLOAT32) {
    return exp2(score - top);
  } else {
    // The difference as a multiply-add: what adds is busier here (Zen 4 has two units of each).
    return rough_exp2(fused(score, pinned(splat(1.0f)), -top));
  }
}

// Powers of one row, at its beginning in the numbers that meet the values, or in float32 where
// WIDE; returns their sum, lane by lane.
template <bool WIDE> LEVIT_INLINE Number::Sum powers_of(float *row, int64_t count, Vec top) {
  Number::Sum sum{};
  constexpr int DTYPE = WIDE ? (int)LEVIT_FLOAT32 : Number::DTYPE;
  const Store place{(char *)row, 0, 16 * size_of(DTYPE), DTYPE, 1, 0};
  for (int64_t i = 0; i < count; i += 16) {
    Vec power[CHUNK];
    LEVIT_UNROLL for (int j = 0; j < CHUNK; j++) {
      power[j] = power_of(load(row + i + j * WIDTH), top);
      if constexpr (Number::INTEGER) {
        power[j] = (Vec)nearest(power[j]);
      }
      sum += (Number::Sum)power[j];
    }
    if constexpr (Number::INTEGER) {
      store_bytes((char *)row + i, (const VecInt *)power);
    } else {
      put<DTYPE>(place, 0, i / 16, power);
    }
  }
  return sum;
}

// Rows of scores → powers of two, the largest of each row being 1, or 255 of bytes; and 1 / the sum
// of each row's (of bytes, of those that they were rounded to). All rows' maxima are found before
// what needs them: row by row a CPU waits for each, and attention takes 4 % longer.
template <bool WIDE>
LEVIT_INLINE void softmax(float *scores, int64_t stride, int64_t rows, int64_t count,
                          float *inverse) {
  Vec top[QUERIES];
  Number::Sum sum[QUERIES];
  for (int64_t r = 0; r < rows; r++) {
    const float *row = scores + r * stride;
    Vec largest = load(row);
    for (int64_t i = WIDTH; i < count; i += WIDTH) largest = maximum(largest, load(row + i));
    top[r] = largest;
  }
  for (int64_t r = 0; r < rows; r++) top[r] = reduced(top[r], maximum);
  for (int64_t r = 0; r < rows; r++) sum[r] = powers_of<WIDE>(scores + r * stride, count, top[r]);
  for (int64_t r = 0; r < rows; r++) {
    const auto total = [](Vec a, Vec b) { return (Vec)added((Number::Sum)a, (Number::Sum)b); };
    inverse[r] = 1.0f / (float)((Number::Sum)reduced((Vec)sum[r], total))[0];
  }
}

// Rows of powers in float32 → powers * factor + positions, in the numbers that meet the values.
LEVIT_INLINE void add_positions(float *powers, int64_t stride, int64_t rows, int64_t count,
                                const float *positions, float *inverse, float rest) {
  for (int64_t r = 0; r < rows; r++, powers += stride, positions += count) {
    const Vec factor = splat(inverse[r] * rest);
    const Store place{(char *)powers, 0, 16 * size_of(Number::DTYPE), Number::DTYPE, 1, 0};
    for (int64_t i = 0; i < count; i += 16) { // in place: smaller numbers come later than read
      Vec x[CHUNK];
      LEVIT_UNROLL for (int j = 0; j < CHUNK; j++) {
        const int64_t at = i + j * WIDTH;
        x[j] = load(powers + at) * factor + load(positions + at);
      }
      put<Number::DTYPE>(place, 0, i / 16, x);
    }
    inverse[r] = 1; // which is in them now
  }
}

} // namespace
