// The C ABI, as levit/native/abi.py mirrors it. Everything that comes in here has been checked in
// Python (levit/native/check.py): sizes, offsets, ranges, aliasing.
#pragma once
#include <stdint.h>

#define LEVIT_ABI 4 // raised with every change of what follows
#define LEVIT_API __attribute__((visibility("default")))

extern "C" {

enum levit_kind {
  LEVIT_CONV,
  LEVIT_LINEAR,
  LEVIT_PROJECT,
  LEVIT_ATTENTION,
  LEVIT_SUBSAMPLE,
  LEVIT_MEAN,
  LEVIT_OUTPUT,
  LEVIT_PATCHES,
  LEVIT_LAYER_NORM,
  LEVIT_STACK,
  LEVIT_ROWS
};
enum levit_activation { LEVIT_IDENTITY, LEVIT_HARD_SWISH, LEVIT_SILU, LEVIT_GELU, LEVIT_TANH };
// Numbers of a buffer. Values of bytes are (byte - zero_point) * scale.
enum levit_dtype { LEVIT_FLOAT32, LEVIT_BFLOAT16, LEVIT_UINT8, LEVIT_DTYPES };
enum levit_filter {
  LEVIT_NEAREST,
  LEVIT_BOX,
  LEVIT_BILINEAR,
  LEVIT_HAMMING,
  LEVIT_BICUBIC,
  LEVIT_LANCZOS
};
// Pixels are (H, W, C) bytes, by the tables, and the outputs those of their values to the last bit;
// alone is on the calling thread.
enum levit_how { LEVIT_PIXELS = 1, LEVIT_ALONE = 2 };
enum levit_status { LEVIT_OK, LEVIT_NO_MEMORY, LEVIT_NO_THREADS };

struct levit_input {
  int64_t is_uint8; // (H, W, C) pixels; else (C, H, W) float32
  int64_t channels, height, width;
  int64_t dtype;               // in which the first step reads it
  int64_t raw;                 // pixels are read as they are, and `border` has a byte a channel
  int64_t border;              // beyond the image, in bytes from the lowest on
  double inverse_scale, shift; // of bytes: round(x * inverse_scale + shift), shift the zero point
};

struct levit_buffer {
  int64_t rows, columns;
  int64_t stride;                  // bytes from row to row
  int64_t offset, carried;         // in words of 4 bytes
  int64_t grid_height, grid_width; // 0 for tokens
  int64_t dtype;
  double inverse_scale, shift; // as an input's
};

struct levit_view {
  int64_t buffer, column, width;
};

struct levit_step {
  int64_t kind, stage, activation;
  int64_t source, target, residual;      // buffers; -1 for none, and for the input
  int64_t copy;                          // a second target, in other numbers; -1 for none
  int64_t heads, has_table;              // of a project; of an attention
  levit_view queries, keys, values;      // of an attention
  int64_t grid_height, grid_width, step; // of a subsample
  int64_t output, transposed;            // of an output: number of the caller's array
  int64_t first;                         // of a mean, patches, rows: levit/native/program.py
  int64_t size, together;                // of patches; of rows
  int64_t has_positions, has_affine;     // of an attention; of a layer norm
  double eps;                            // of a layer norm
};

struct levit_program {
  levit_input input;
  int64_t buffers, steps, stages;
  const levit_buffer *buffer;
  const levit_step *step;
};

// Rows of pixels: of four bytes, the last of which is not read; of three; or of one.
struct levit_picture {
  const void *pixels;
  int64_t width, height, pitch; // bytes from row to row
  int64_t pixel;                // bytes
  int64_t reversed;             // of three: blue comes first
};

// A picture resized to width x height, and its crop; what of that lies beyond is black.
struct levit_crop {
  int64_t filter, width, height;
  int64_t left, top, crop_width, crop_height;
  int64_t rows_first; // the order in which both axes are resized, with bytes in between
};

struct levit_engine;

LEVIT_API int levit_abi();

// Instruction sets, the best first; usable: 1 where this CPU has it.
LEVIT_API int levit_isa_count();
LEVIT_API const char *levit_isa_name(int isa);
LEVIT_API int levit_isa_usable(int isa);
// 1 where it has products of these numbers.
LEVIT_API int levit_isa_multiplies(int isa, int dtype);
// Multiply-adds per second that this thread reaches in registers alone, times two.
LEVIT_API double levit_isa_peak(int isa, int dtype, double seconds);

// Copies the program; null where there is no memory.
LEVIT_API levit_engine *levit_open(const levit_program *program, int isa, int threads);
// Starts the threads: LEVIT_NO_THREADS where the system gives fewer.
LEVIT_API int levit_start(levit_engine *engine);
// Packs one layer, part by part in their order: (weight, bias, scale) of a conv or a linear, or of
// a part of a project with `width` columns a head. Weights are of the source's numbers: float32;
// bfloat16; or int8 with an int32 bias and the scale of each column's sums. Of an attention:
// (table, scale of each head's scores, scale and offset of each column of the values), of bytes but
// for the table. Of a layer norm: (weight, bias). Of a stack: its rows. What there is none of is
// null.
LEVIT_API int levit_pack(levit_engine *engine, int64_t step, int64_t width, const void *weight,
                         const void *bias, const float *scale, const float *offset);
// Table of weights by position of an attention, and the share of each head that it leaves; null for
// ones.
LEVIT_API void levit_pack_positions(levit_engine *engine, int64_t step, const float *table,
                                    const float *rest);
// Scale and shift of uint8 pixels, per channel.
LEVIT_API void levit_set_pixels(levit_engine *engine, const float *scale, const float *shift);
// Values of pixels, (channels, 256), of a program that takes planes of up to 4 channels.
LEVIT_API void levit_set_tables(levit_engine *engine, const float *tables);
// Runs `images`; outputs[i] holds images x the size of output i. Any number of threads may call.
// `how` is a sum of `levit_how`.
LEVIT_API int levit_run(levit_engine *engine, const void *input, int64_t images,
                        float *const *outputs, int how);
// The same on all threads together, and adds up the seconds of each step on the first of them.
LEVIT_API int levit_profile(levit_engine *engine, const void *input, int64_t images,
                            float *const *outputs, double *seconds);
LEVIT_API void levit_close(levit_engine *engine);

// Resizes and crops as Pillow does; target is (crop_height, crop_width, 3), or 1 of pixels of one
// byte.
LEVIT_API int levit_resize(int isa, const levit_picture *picture, const levit_crop *crop,
                           void *target);
// (count, channels) bytes → (channels, count) floats by (channels, 256) tables; 1, 3 or 4 channels.
LEVIT_API void levit_planes(int isa, const void *pixels, int64_t count, int64_t channels,
                            const float *tables, float *planes);
}
