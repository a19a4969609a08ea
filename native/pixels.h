// What an instruction set provides for pictures: the loops over rows of pixels. pixels.cpp is
// compiled once per instruction set, and fills one table of these.
#pragma once
#include "taps.h"

namespace levit {

// Bytes that loops may read or write beyond the end of a row in scratch.
constexpr int64_t PIXEL_SLACK = 64;

struct PixelKernels {
  int64_t rows, taps; // that `across` takes at once
  bool takes_digits;  // of weights: Taps::split
  // Pixels of four bytes of `rows` rows → outputs of `pixel` bytes each; the last is followed
  // by up to three bytes of nothing.
  void (*across)(const uint8_t *const *rows, const Taps &taps, uint8_t *const *targets,
                 int64_t pixel);
  // The weighted sum of rows of `bytes`.
  void (*down)(const uint8_t *const *rows, const int32_t *weights, int64_t taps, int64_t bytes,
               uint8_t *target);
  // Pixels of one or three bytes → of four; `reversed`: blue comes first.
  void (*spread)(const uint8_t *source, int64_t pixels, int64_t channels, bool reversed,
                 uint8_t *row);
  // Pixels, channels in turn → planes of floats: one table of 256 for each channel.
  void (*planes)(const uint8_t *pixels, int64_t count, int64_t channels, const float *tables,
                 float *planes);
};

} // namespace levit
