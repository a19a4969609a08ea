// The register tile: ROWS x VECTORS accumulators, and one template for every product.
//
// ROWS broadcasts of the left operand meet VECTORS vectors of the right one at each step, so that
// ROWS * VECTORS multiply-adds need ROWS + VECTORS loads. Rows are read through one pointer for
// three of them (p, p + stride, p + 2 * stride): with a pointer a row compilers run out of
// registers.
#pragma once
#include "numbers.h"
#include "vector.h"

namespace {

typedef NUMBERS Number; // those of this compilation

// Accumulators fill the registers, less one per vector of weights and one broadcast; where bytes
// are widened, less four for the weights' halves and three for a broadcast's.
// PANEL is 16 columns or more, so that a panel fills whole blocks of LANES.
constexpr bool WIDENS = sizeof(Number::Left) > BYTES;
#if defined(__AVX512F__)
constexpr int REGISTER_ROWS = WIDENS ? 12 : 14, TILE_VECTORS = 2; // 28 of 32 registers
#elif defined(__AVX2__)
constexpr int REGISTER_ROWS = WIDENS ? 4 : 6, TILE_VECTORS = 2; // 12 of 16
#elif defined(__aarch64__)
constexpr int REGISTER_ROWS = 6, TILE_VECTORS = 4; // 24 of 32
#else
constexpr int REGISTER_ROWS = 2, TILE_VECTORS = 4; // 8 of 16
#endif
#if defined(LEVIT_AMX)
constexpr int TILE_ROWS = 32;
constexpr int DEPTH_STEP = 16;
constexpr int SHARED_ROWS = TILE_ROWS / 2;
#else
constexpr int TILE_ROWS = REGISTER_ROWS;
constexpr int DEPTH_STEP = 1;
constexpr int SHARED_ROWS = TILE_ROWS;
#endif
// Attention of bytes stays with the vectors: its sums have few words, and come back from tiles too
// slowly (measured: docs/native.md).
constexpr bool ATTENTION_IN_TILES = DEPTH_STEP > 1 && !Number::INTEGER;
constexpr int QUERIES = ATTENTION_IN_TILES ? 16 : REGISTER_ROWS;
constexpr int ATTENTION_STEP = ATTENTION_IN_TILES ? DEPTH_STEP : 1; // words of a sum: whole steps
constexpr int PANEL = WIDTH * TILE_VECTORS;
static_assert(PANEL == 16 || PANEL == 32);
constexpr int EACH = Number::EACH; // values in a word

template <int ROWS, int VECTORS> struct Tile { Number::Sum at[ROWS][VECTORS]; };

// 1, 2, … REGISTER_ROWS: a kernel has a function for each number of rows, so that rows can be
// distributed evenly: 49 are 12 + 12 + 12 + 13, not 14 + 14 + 14 + 7.
template <int... ROWS> struct Heights {};
template <int LAST, int... ROWS> struct HeightsTo : HeightsTo<LAST - 1, LAST, ROWS...> {};
template <int... ROWS> struct HeightsTo<0, ROWS...> { typedef Heights<ROWS...> type; };
typedef HeightsTo<REGISTER_ROWS>::type AllHeights;
// And for whole panels and the half one of 16 columns.
constexpr int HALF = 16 / WIDTH;

// The left operand: rows of `depth` words in `segments`, such as the three rows of a 3x3 window.
// Strides in bytes.
struct Left {
  const char *p;
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
  int64_t block; // words from one block of 16 columns to the next
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
    const char *row[(ROWS + 2) / 3];
    LEVIT_UNROLL for (int i = 0; i < (ROWS + 2) / 3; i++) {
      row[i] = left.p + 3 * i * stride + s * left.segment_stride;
    }
    for (int64_t k = 0; k < left.depth; k++) {
      Vec w[VECTORS];
      LEVIT_UNROLL for (int v = 0; v < VECTORS; v++) w[v] = right.vector(v);
      LEVIT_UNROLL for (int r = 0; r < ROWS; r++) {
        const Number::Left x = Number::broadcast(row[r / 3] + r % 3 * stride);
        LEVIT_UNROLL for (int v = 0; v < VECTORS; v++) {
          sum.at[r][v] = Number::dot(sum.at[r][v], x, w[v]);
        }
      }
      LEVIT_UNROLL for (int i = 0; i < (ROWS + 2) / 3; i++) row[i] += 4;
      right.advance();
    }
  }
}

// What a sum stands for: of integers, that times a scale of their column.
LEVIT_INLINE Vec value_of(Number::Sum sum, Vec scale) {
  if constexpr (Number::INTEGER) {
    return __builtin_convertvector((VecInt)sum, Vec) * scale;
  } else {
    return (Vec)sum;
  }
}

// The same on top of what is there, rounded once.
LEVIT_INLINE Vec value_on(Vec base, Number::Sum sum, Vec scale) {
  if constexpr (Number::INTEGER) {
    return fused(__builtin_convertvector((VecInt)sum, Vec), scale, base);
  } else {
    return base + (Vec)sum;
  }
}

} // namespace
