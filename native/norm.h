// LayerNorm. Sums are taken in 16 lanes and then of the lanes in pairs, whatever the width of a
// vector: where multiply-adds are not fused every instruction set gives the same bits.
#pragma once
#include "store.h"

namespace {

using levit::NormWork;

// The sum of 16 lanes: each with the one 8 further on, those 4 further on, and so on.
LEVIT_INLINE float total(const Vec *lanes) {
  Vec sum[CHUNK];
  LEVIT_UNROLL for (int i = 0; i < CHUNK; i++) sum[i] = lanes[i];
  LEVIT_UNROLL for (int half = CHUNK / 2; half; half /= 2) {
    LEVIT_UNROLL for (int i = 0; i < half; i++) sum[i] += sum[i + half];
  }
  return reduced(sum[0], [](Vec a, Vec b) { return a + b; })[0];
}

// Which lanes of a chunk are columns, with `count` of those left.
struct Mask {
  VecInt lanes[CHUNK];

  explicit Mask(int64_t count) {
    LEVIT_UNROLL for (int i = 0; i < CHUNK; i++) {
      for (int j = 0; j < WIDTH; j++) lanes[i][j] = i * WIDTH + j < count ? -1 : 0;
    }
  }
  LEVIT_INLINE Vec kept(Vec x, int i) const { return (Vec)((VecInt)x & lanes[i]); }
};

// Columns [at, at + 16) of a row less its mean; beyond the columns 0.
template <bool LAST>
LEVIT_INLINE void centred(const float *row, int64_t at, Vec mean, const Mask &mask, Vec *x) {
  LEVIT_UNROLL for (int i = 0; i < CHUNK; i++) {
    x[i] = load(row + at + i * WIDTH) - mean;
    if (LAST) x[i] = mask.kept(x[i], i);
  }
}

// Deviations and mean of one row: use(chunk, CHUNK vectors of what is centred).
template <class Use>
LEVIT_INLINE void for_centred(const float *row, int64_t columns, Vec mean, const Mask &mask,
                              Use use) {
  Vec x[CHUNK];
  const int64_t whole = columns / 16;
  for (int64_t c = 0; c < whole; c++) {
    centred<false>(row, c * 16, mean, mask, x);
    use(c, x);
  }
  if (whole * 16 == columns) return;
  centred<true>(row, whole * 16, mean, mask, x);
  use(whole, x);
}

template <bool AFFINE>
LEVIT_INLINE void norm_row(const NormWork &work, int64_t r, const Mask &mask) {
  const float *row = (const float *)((const char *)work.source + r * work.source_stride);
  const float share = 1.0f / (float)work.columns;
  Vec sum[CHUNK] = {}, squares[CHUNK] = {};
  for_centred(row, work.columns, Vec{}, mask, [&](int64_t, const Vec *x) {
    LEVIT_UNROLL for (int i = 0; i < CHUNK; i++) sum[i] += x[i];
  });
  const Vec mean = splat(total(sum) * share);
  for_centred(row, work.columns, mean, mask, [&](int64_t, const Vec *x) {
    LEVIT_UNROLL for (int i = 0; i < CHUNK; i++) squares[i] += x[i] * x[i];
  });
  const Vec scale = splat(1.0f / __builtin_sqrtf(total(squares) * share + work.eps));
  for_centred(row, work.columns, mean, mask, [&](int64_t c, Vec *x) {
    LEVIT_UNROLL for (int i = 0; i < CHUNK; i++) {
      x[i] *= scale;
      if (AFFINE) {
        const int64_t at = c * 16 + i * WIDTH;
        x[i] = x[i] * load(work.weight + at) + load(work.bias + at);
      }
    }
    put(work.target, r, c, x);
  });
}

void layer_norm(const NormWork &work) {
  const Mask mask(work.columns % 16);
  for (int64_t r = work.rows.begin; r < work.rows.end; r++) {
    if (work.weight) {
      norm_row<true>(work, r, mask);
    } else {
      norm_row<false>(work, r, mask);
    }
  }
}

} // namespace
