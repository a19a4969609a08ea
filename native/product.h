// One tile of a product with packed weights.
#pragma once
#if defined(LEVIT_AMX)
#include "amx.h"
#else
#include "finish.h"

namespace {

template <int ROWS, int VECTORS>
__attribute__((noinline)) void product_tile(const Product &product) {
  Tile<ROWS, VECTORS> sum;
  LEVIT_UNROLL for (int v = 0; v < VECTORS; v++) {
    const Vec start = load(product.weights.start + v * WIDTH);
    LEVIT_UNROLL for (int r = 0; r < ROWS; r++) sum.at[r][v] = (Number::Sum)start;
  }
  multiply(sum, product.left,
           Packed<VECTORS>{product.weights.panels, product.ahead, product.ahead_stride});
  finish(sum, product.weights.scale, product);
}

template <int VECTORS, class ALL> struct ProductTiles;
template <int VECTORS, int... ROWS> struct ProductTiles<VECTORS, Heights<ROWS...>> {
  static constexpr void (*of_rows[])(const Product &) = {product_tile<ROWS, VECTORS>...};
};

// Products of blocks of rows with panels of weights, one after another.
struct Panels {
  LEVIT_INLINE void multiply(const Product &product, int64_t rows, int64_t columns) {
    (columns == PANEL ? ProductTiles<TILE_VECTORS, AllHeights>::of_rows
                      : ProductTiles<HALF, AllHeights>::of_rows)[rows - 1](product);
  }
  LEVIT_INLINE void finish() {}
};

} // namespace
#endif
