// The two products of attention, queries with keys and powers of two with values, and what happens
// to their sums.
#pragma once
#include "finish.h"

namespace {

struct Scores {
  Left queries;
  const float *keys; // a panel
  const float *start;
  const float *table;
  int64_t table_stride;
  float scale; // of integer sums
  float *target;
  int64_t target_stride;
};

struct Values {
  Left weights;        // rows of powers of two
  const float *values; // a panel; of float32 in blocks as they came
  int64_t value_block;
  const float *start, *scale, *offset; // of each column, of integers only
  const float *inverse;                // of the sum of each row
  Product product;                     // its target and activation
};

// Vector v of a row of the values, from what their products with the powers add up to.
LEVIT_INLINE Vec mean_of(const Values &values, Vec x, float inverse, int v) {
  const Vec factor = splat(inverse);
  return Number::INTEGER ? fused(x, factor, load(values.offset + v * WIDTH)) : x * factor;
}

// Finishes a tile of sums, whose first row is `first`.
template <int ROWS, int VECTORS>
LEVIT_INLINE void finish_values(const Tile<ROWS, VECTORS> &sum, const Values &values,
                                int64_t first) {
  const float *inverse = values.inverse + first;
  const Store target = from_place(values.product.target, first * values.product.target.row_stride);
  constexpr int OWN = Number::DTYPE;
  if (values.product.activation == LEVIT_HARD_SWISH && target.dtype == OWN) {
    for_values(sum, values.scale, [&](int r, int c, Vec *x) {
      LEVIT_UNROLL for (int i = 0; i < CHUNK; i++) {
        x[i] = hard_swish(mean_of(values, x[i], inverse[r], c * CHUNK + i));
      }
      put<OWN>(target, r, c, x);
    });
    return;
  }
  constexpr int CHUNKS = VECTORS / CHUNK;
  alignas(64) float found[ROWS * CHUNKS * 16];
  for_values(sum, values.scale, [&](int r, int c, Vec *x) {
    LEVIT_UNROLL for (int i = 0; i < CHUNK; i++) {
      store(found + (r * CHUNKS + c) * 16 + i * WIDTH,
            mean_of(values, x[i], inverse[r], c * CHUNK + i));
    }
  });
  Product rest = values.product;
  rest.target = target;
  finish_stored(rest, found, ROWS, CHUNKS);
}

} // namespace
