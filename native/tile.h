// The register tile: ROWS x VECTORS accumulators, and one template for every product.
//
// ROWS broadcasts of the left operand meet VECTORS vectors of the right one at each step, so that
// ROWS * VECTORS multiply-adds need ROWS + VECTORS loads. Rows are read through one pointer for
// three of them (p, p + stride, p + 2 * stride): with a pointer a row compilers run out of
// registers.
#pragma once
#include "abi.h"
#include "vector.h"

namespace {

template <int ROWS, int VECTORS> struct Tile { Vec at[ROWS][VECTORS]; };

// 1, 2, … TILE_ROWS: a kernel has a function for each number of rows, so that rows can be
// distributed evenly: 49 are 12 + 12 + 12 + 13, not 14 + 14 + 14 + 7.
template <int... ROWS> struct Heights {};
template <int LAST, int... ROWS> struct HeightsTo : HeightsTo<LAST - 1, LAST, ROWS...> {};
template <int... ROWS> struct HeightsTo<0, ROWS...> { typedef Heights<ROWS...> type; };
typedef HeightsTo<TILE_ROWS>::type AllHeights;
// And for whole panels and the half one of 16 columns.
constexpr int HALF = 16 / WIDTH;

// The left operand: rows of `depth` floats in `segments`, such as the three rows of a 3x3 window.
struct Left {
  const float *p;
  int64_t row_stride, depth, segments, segment_stride;
};

// The right operand as `pack` writes it, or as a matrix in blocks of 16 columns.
template <int VECTORS> struct Packed {
  const float *p;
  const float *ahead; // what is wanted next, fetched one line a step
  int64_t ahead_stride;
  LEVIT_INLINE Vec vector(int v) const { return load(p + v * WIDTH); }
  LEVIT_INLINE void advance() {
    p += VECTORS * WIDTH;
    __builtin_prefetch(ahead);
    ahead += ahead_stride;
  }
};

template <int VECTORS> struct Blocked {
  const float *p;
  int64_t block; // floats from one block of 16 columns to the next
  LEVIT_INLINE Vec vector(int v) const {
    return load(p + (v * WIDTH / 16) * block + v * WIDTH % 16);
  }
  LEVIT_INLINE void advance() { p += 16; }
};

// One step of K at a time: unrolled by four it is no faster (the loop's own instructions fit beside
// the multiply-adds), and clang runs out of registers.
template <int ROWS, int VECTORS, class Right>
LEVIT_INLINE void multiply(Tile<ROWS, VECTORS> &sum, const Left &left, Right right) {
  const int64_t stride = left.row_stride;
  for (int64_t s = 0; s < left.segments; s++) {
    const float *row[(ROWS + 2) / 3];
    LEVIT_UNROLL for (int i = 0; i < (ROWS + 2) / 3; i++) {
      row[i] = left.p + 3 * i * stride + s * left.segment_stride;
    }
    for (int64_t k = 0; k < left.depth; k++) {
      Vec w[VECTORS];
      LEVIT_UNROLL for (int v = 0; v < VECTORS; v++) w[v] = right.vector(v);
      LEVIT_UNROLL for (int r = 0; r < ROWS; r++) {
        Vec x = pinned(splat(row[r / 3][r % 3 * stride]));
        LEVIT_UNROLL for (int v = 0; v < VECTORS; v++) {
          sum.at[r][v] = multiplied_in(sum.at[r][v], x, w[v]);
        }
      }
      LEVIT_UNROLL for (int i = 0; i < (ROWS + 2) / 3; i++) row[i]++;
      right.advance();
    }
  }
}

// Where a tile goes: vector v of row r at p + r * row_stride + (v's block) * chunk_stride.
struct Place {
  float *p;
  int64_t row_stride, chunk_stride;
  LEVIT_INLINE float *at(int r, int v) const {
    return p + r * row_stride + (v * WIDTH / 16) * chunk_stride + v * WIDTH % 16;
  }
};

LEVIT_INLINE Vec hard_swish(Vec x) {
  Vec gate = x * splat(1.0f / 6) + splat(0.5f);
  return x * minimum(maximum(gate, pinned(Vec{})), pinned(splat(1.0f)));
}

LEVIT_INLINE Vec sigmoid(Vec x) {
  // Of large negative x, 2^126 is enough to give 0.
  Vec e = exp2(minimum(x * splat(-1.442695041f), pinned(splat(126.0f))));
  return splat(1.0f) / (splat(1.0f) + e);
}

// erf by Abramowitz and Stegun's 7.1.26: at most 1.5e-7 off.
LEVIT_INLINE Vec gelu(Vec x) {
  Vec z = maximum(x, -x) * splat(0.70710678f);
  Vec t = splat(1.0f) / (splat(1.0f) + splat(0.3275911f) * z);
  Vec p = splat(1.061405429f) * t + splat(-1.453152027f);
  p = p * t + splat(1.421413741f);
  p = p * t + splat(-0.284496736f);
  p = p * t + splat(0.254829592f);
  Vec half_tail = splat(0.5f) * p * t * exp2(z * z * splat(-1.442695041f));
  // Phi(x) is 1 - tail above 0 and tail below.
  return maximum(x, pinned(Vec{})) - maximum(x, -x) * half_tail;
}

// SiLU and GELU are rare and long: a second pass over a tile that lies in L1, and only there.
template <int ROWS, int VECTORS>
__attribute__((noinline)) void activate_stored(const Place &place, int64_t activation) {
  for (int r = 0; r < ROWS; r++) {
    for (int v = 0; v < VECTORS; v++) {
      float *p = place.at(r, v);
      Vec x = load(p);
      store(p, activation == LEVIT_SILU ? x * sigmoid(x) : gelu(x));
    }
  }
}

} // namespace
