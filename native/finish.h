// All that happens to a tile of sums before it is stored, in registers: activation, residual sum,
// the numbers of whatever reads it.
#pragma once
#include "activations.h"
#include "kernels.h"
#include "store.h"
#include "tile.h"

namespace {

using levit::Weights;

struct Product {
  Left left;
  Weights weights;      // of the tile's first column on
  const float *ahead;   // weights that are wanted next
  int64_t ahead_stride; // words from one line that is fetched to the next
  Store target, copy;
  const float *residual; // at the target's place, in its strides; null for none
  int64_t activation;    // none beside a residual
};

// Every sum's value, 16 columns at a time, to use(row, chunk, CHUNK vectors); each is
// value(row, chunk, vector of the chunk, sum, scale).
template <int ROWS, int VECTORS, class Value, class Use>
LEVIT_INLINE void for_values(const Tile<ROWS, VECTORS> &sum, const float *scale, Value value,
                             Use use) {
  Vec scales[VECTORS];
  LEVIT_UNROLL for (int v = 0; v < VECTORS; v++) {
    scales[v] = Number::INTEGER ? load(scale + v * WIDTH) : Vec{};
  }
  LEVIT_UNROLL for (int r = 0; r < ROWS; r++) {
    LEVIT_UNROLL for (int c = 0; c < VECTORS / CHUNK; c++) {
      Vec x[CHUNK];
      LEVIT_UNROLL for (int i = 0; i < CHUNK; i++) {
        x[i] = value(r, c, i, sum.at[r][c * CHUNK + i], scales[c * CHUNK + i]);
      }
      use(r, c, x);
    }
  }
}

template <int ROWS, int VECTORS, class Use>
LEVIT_INLINE void for_values(const Tile<ROWS, VECTORS> &sum, const float *scale, Use use) {
  const auto value = [](int, int, int, Number::Sum x, Vec of_column) {
    return value_of(x, of_column);
  };
  for_values(sum, scale, value, use);
}

LEVIT_INLINE const float *beside(const float *residual, const Store &target, int64_t r, int64_t c) {
  return (const float *)((const char *)residual + r * target.row_stride + c * target.chunk_stride);
}

// An activation of what sums stand for: that of integers knows GELU as well as bytes need.
LEVIT_INLINE Vec activated_sum(Vec x, int64_t activation) {
  if (Number::INTEGER && activation == LEVIT_GELU) return rough_gelu(x);
  return activated(x, activation);
}

// What is rare is not worth code of its own at the end of every tile: a pass over a tile's values,
// which lie in L1.
__attribute__((noinline)) void finish_stored(const Product &product, const float *values, int rows,
                                             int chunks) {
  for (int r = 0; r < rows; r++) {
    for (int c = 0; c < chunks; c++) {
      Vec x[CHUNK];
      for (int i = 0; i < CHUNK; i++) {
        x[i] = activated_sum(load(values + (r * chunks + c) * 16 + i * WIDTH), product.activation);
      }
      put(product.target, r, c, x);
      if (product.copy.p) put(product.copy, r, c, x);
    }
  }
}

// The same for GELU alone, which is too long to stand behind every tile: in a loop of its own the
// values come and go beside the arithmetic.
__attribute__((noinline)) void finish_gelu(const Store &target, const float *values, int rows,
                                           int chunks) {
  constexpr int OWN = Number::DTYPE;
  for (int r = 0; r < rows; r++) {
    for (int c = 0; c < chunks; c++, values += 16) {
      Vec x[CHUNK];
      LEVIT_UNROLL for (int i = 0; i < CHUNK; i++) {
        x[i] = activated_sum(load(values + i * WIDTH), LEVIT_GELU);
      }
      put<OWN>(target, r, c, x);
    }
  }
}

// The sums of a tile, finished: the usual ends are in registers.
template <int ROWS, int VECTORS>
LEVIT_INLINE void finish(const Tile<ROWS, VECTORS> &sum, const float *scale,
                         const Product &product) {
  constexpr int OWN = Number::DTYPE;
  const Store &target = product.target, &copy = product.copy;
  const bool alone = !product.residual && !copy.p && target.dtype == OWN;
  if (alone && product.activation == LEVIT_HARD_SWISH) {
    for_values(sum, scale, [&](int r, int c, Vec *x) {
      LEVIT_UNROLL for (int i = 0; i < CHUNK; i++) x[i] = hard_swish(x[i]);
      put<OWN>(target, r, c, x);
    });
    return;
  }
  if (alone && product.activation == LEVIT_IDENTITY) {
    for_values(sum, scale, [&](int r, int c, Vec *x) { put<OWN>(target, r, c, x); });
    return;
  }
  const auto on_residual = [&](int r, int c, int i, Number::Sum x, Vec of_column) {
    return value_on(load(beside(product.residual, target, r, c) + i * WIDTH), x, of_column);
  };
  if (product.residual && (!copy.p || (OWN != LEVIT_FLOAT32 && copy.dtype == OWN))) {
    for_values(sum, scale, on_residual, [&](int r, int c, Vec *x) {
      put<LEVIT_FLOAT32>(target, r, c, x);
      if (OWN != LEVIT_FLOAT32 && copy.p) put<OWN>(copy, r, c, x);
    });
    return;
  }
  constexpr int CHUNKS = VECTORS / CHUNK;
  alignas(64) float values[ROWS * CHUNKS * 16];
  const auto value = [&](int r, int c, int i, Number::Sum x, Vec of_column) {
    return product.residual ? on_residual(r, c, i, x, of_column) : value_of(x, of_column);
  };
  for_values(sum, scale, value, [&](int r, int c, Vec *x) {
    LEVIT_UNROLL for (int i = 0; i < CHUNK; i++) {
      store(values + (r * CHUNKS + c) * 16 + i * WIDTH, x[i]);
    }
  });
  if (alone && product.activation == LEVIT_GELU) {
    finish_gelu(target, values, ROWS, CHUNKS);
  } else {
    finish_stored(product, values, ROWS, CHUNKS);
  }
}

// Weights from column `column` on, which begins a panel.
LEVIT_INLINE Weights from_column(const Weights &weights, int64_t column) {
  return {weights.panels + column * weights.pitch, weights.start + column,
          Number::INTEGER ? weights.scale + column : nullptr, weights.pitch};
}

LEVIT_INLINE Store from_place(Store store_, int64_t bytes) {
  if (store_.p) store_.p += bytes;
  return store_;
}

} // namespace
