// What an instruction set provides: the loops of each kind of step, for one thread's share of it.
// isa.cpp is compiled once per instruction set and fills one table of these.
#pragma once
#include <stdint.h>

namespace levit {

constexpr int64_t LANES = 16; // floats to which rows are padded: levit/native/program.py

constexpr int64_t PIXEL_LANES = 48; // a multiple of 1 to 4 channels: scales and shifts in turn

constexpr int64_t padded(int64_t columns) { return (columns + LANES - 1) / LANES * LANES; }

struct Range {
  int64_t begin, end;
};

// rows x depth times packed columns, with all that happens to the result before it is stored.
struct LinearWork {
  const float *source;
  int64_t source_stride;
  int64_t depth;       // products of one sum
  int64_t columns;     // padded
  const float *weight; // panels, as `pack` writes them
  const float *bias;   // padded columns
  float *target;
  int64_t row_stride, chunk_stride; // floats between rows, and between 16 columns of a row
  const float *residual;            // strides as the target's; null for none
  int64_t activation;
  Range rows, panels;
};

// 3x3, stride 2, padding 1; the source has its border already, channels last.
struct ConvWork {
  const float *source; // window of output (0, 0)
  int64_t source_channels;
  int64_t source_pitch;   // floats from row to row of the source
  int64_t width, columns; // of the target; columns are its channels, not padded
  const float *weight, *bias;
  float *target;                      // output (0, 0)
  int64_t target_pitch, pixel_stride; // floats from row to row, and from pixel to pixel
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
};

// softmax2(q k' + table) v of some rows of queries, heads and images.
struct AttentionWork {
  const float *queries, *keys, *values;        // in blocks of 16 columns: (blocks, rows, 16)
  int64_t query_block, key_block, value_block; // floats from block to block
  int64_t query_count, key_count;              // of one image
  int64_t key_width, value_width;
  int64_t images, heads;
  // (heads, queries, padded keys), far below 0 where there is no key; one row for all of them where
  // there is no table, and no step from one to the next.
  const float *table;
  int64_t table_stride;
  float *target; // (images, queries, heads * value_width)
  int64_t target_stride;
  int64_t activation;
  Range tiles; // of heads * images * tiles of queries
};

struct Kernels {
  int64_t rows;  // of a register tile
  int64_t panel; // columns of a full panel of weights; the last may have 16
  void (*linear)(const LinearWork &);
  void (*conv)(const ConvWork &);
  void (*image)(const ImageWork &, float *scratch);
  void (*attention)(const AttentionWork &, float *scratch);
  // (count, depth) row-major → columns [first, first + count) of packed panels of `columns` in all;
  // element k of a column is weight[order[k]], or weight[k] without an order.
  void (*pack)(const float *weight, int64_t count, int64_t depth, const int32_t *order,
               int64_t first, int64_t columns, float *packed);
  void (*mean)(const float *source, int64_t rows, int64_t stride, Range columns, float *target);
  double (*multiply_adds)(int64_t rounds); // how many it has done, in registers alone
};

} // namespace levit
