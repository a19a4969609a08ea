// What an instruction set provides: the loops of each kind of step, for one thread's share of it.
// isa.cpp is compiled once per instruction set and kind of numbers, and fills one table of these.
#pragma once
#include <stdint.h>

#include "abi.h"

namespace levit {

constexpr int64_t LANES = 16; // columns to which rows are padded: levit/native/program.py

constexpr int64_t PIXEL_LANES = 48; // a multiple of 1 to 4 channels: scales and shifts in turn

constexpr int64_t PIXEL_VALUES = 256, MOST_CHANNELS = 4; // of a table; with a table each

constexpr int64_t MOST_TILE_ROWS = 32;

constexpr int64_t padded(int64_t columns) { return (columns + LANES - 1) / LANES * LANES; }

constexpr int64_t size_of(int64_t dtype) {
  return dtype == LEVIT_FLOAT32 ? 4 : dtype == LEVIT_BFLOAT16 ? 2 : 1;
}

// Words of 4 bytes that hold so many values.
constexpr int64_t words(int64_t count, int64_t dtype) { return (count * size_of(dtype) + 3) / 4; }

struct Range {
  int64_t begin, end;
};

// Where values go, and in which numbers.
struct Store {
  char *p;                          // null: nowhere
  int64_t row_stride, chunk_stride; // bytes between rows, and between 16 columns of a row
  int64_t dtype;
  float inverse_scale, shift; // of bytes: round(x * inverse_scale + shift)
};

// Weights as `pack` writes them, with the start of each column's sums: the bias, and of integers
// what undoes the zero point of the left operand.
struct Weights {
  const float *panels, *start; // words
  const float *scale;          // of each column's sums, of integers only
  int64_t pitch;               // words of a column: its depth, filled up with zeros
};

// rows x depth times packed columns, with all that happens to the result before it is stored.
struct LinearWork {
  const char *source;
  int64_t source_stride; // bytes
  int64_t depth;         // words of one sum
  int64_t columns;       // padded
  Weights weights;
  Store target, copy;
  const float *residual; // with the target's strides, which is float32; null for none
  int64_t activation;
  Range rows, panels;
};

// 3x3, stride 2, padding 1; the source has its border already, channels last.
struct ConvWork {
  const char *source;     // window of output (0, 0)
  int64_t source_pixel;   // bytes, a whole number of words
  int64_t source_pitch;   // bytes from row to row of the source
  int64_t width, columns; // of the target; columns are its channels, not padded
  Weights weights;
  Store target, copy;               // output (0, 0); row_stride from pixel to pixel
  int64_t target_pitch, copy_pitch; // bytes from row to row
  int64_t activation;
  Range rows;
};

// The first convolution, whose rows are converted to channels last in `scratch` one by one.
struct ImageWork {
  ConvWork conv; // its source is not used
  const void *image;
  bool is_uint8;
  int64_t channels, height, width;
  const float *scale, *shift; // of uint8, PIXEL_LANES of each
  const float *tables;        // in place of these, PIXEL_VALUES a channel; null for none
  bool raw;                   // bytes are read as they are
  uint32_t border;            // a byte a channel
  float inverse_scale, zero;  // of other bytes
};

// softmax2(q k' + table) v of some rows of queries, heads and images.
struct AttentionWork {
  const char *queries, *keys, *values;         // in blocks of 16 columns: (blocks, rows, 16)
  int64_t query_block, key_block, value_block; // bytes from block to block
  int64_t query_count, key_count;              // of one image
  int64_t key_width, value_width;
  int64_t images, heads;
  // (heads, queries, padded keys), far below 0 where there is no key; one row for all of them where
  // there is no table, and no step from one to the next.
  const float *table;
  int64_t table_stride;
  // Weights by position, (heads, queries, padded keys), and the share of each head that they leave
  // to the softmax; null for none.
  const float *positions, *rest;
  const float *score_scale;                // of each head's sums, of integers only
  const float *value_scale, *value_offset; // (heads, padded value_width), of integers only
  Store target;                            // (images, queries, heads * value_width)
  int64_t activation;
  Range tiles; // of heads * images * tiles of queries
};

// Squares of an image as rows, behind `first` rows of zeros.
struct PatchesWork {
  const void *image;
  bool is_uint8;
  int64_t channels, height, width;
  const float *scale, *shift; // of uint8, PIXEL_LANES of each
  const float *tables;        // in place of these, and then planes are meant; null for none
  int64_t size, first;
  Store target;
  Range rows;
};

// Tokens less their mean, over their deviation.
struct NormWork {
  const float *source;
  int64_t source_stride;      // bytes
  int64_t columns;            // not padded
  const float *weight, *bias; // of padded columns; null for ones and zeros
  float eps;
  Store target;
  Range rows;
};

struct Kernels {
  int64_t rows;       // that threads share a product by: of a tile, or a half where that costs half
  int64_t queries;    // that attention computes at once
  int64_t panel;      // columns of a full panel of weights; the last may have 16
  int64_t depth_step; // words of which a column's weights are whole multiples
  int64_t left_zero;  // byte of the left operand that multiplies as 0: 128 of signed ones
  void (*linear)(const LinearWork &);
  void (*conv)(const ConvWork &);
  void (*image)(const ImageWork &, float *scratch);
  void (*attention)(const AttentionWork &, float *scratch);
  // (count, depth) words row-major → columns [first, first + count) of packed panels of `columns`
  // in all.
  void (*pack)(const float *weight, int64_t count, int64_t depth, int64_t first, int64_t columns,
               float *packed);
  // Sums of float32 rows over `rows`, times 1 / rows, for 16 columns at a time.
  void (*mean)(const float *source, int64_t rows, int64_t stride, Range chunks,
               const Store &target);
  // `chunks` of 16 float32 columns of one row into other numbers.
  void (*convert)(const float *source, Range chunks, const Store &target);
  void (*patches)(const PatchesWork &, float *scratch); // of a row, where it is not float32
  void (*layer_norm)(const NormWork &);
  double (*multiply_adds)(int64_t rounds); // how many it has done, in registers alone
};

} // namespace levit
