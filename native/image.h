// The first convolution: rows of the caller's image become rows of pixels, channels last, in its
// numbers, as they are needed.
#pragma once
#include "conv.h"
#include "transpose.h"

namespace {

// Channels of a pixel are filled up to whole words: 3 float32 are, 3 bytes become 4.
LEVIT_INLINE int64_t pixel_bytes(const ImageWork &work) {
  return levit::words(work.channels, Number::DTYPE) * 4;
}

// Pixels as normalised floats, channels in turn.
LEVIT_INLINE void normalise(const uint8_t *pixels, int64_t count, const float *scale,
                            const float *shift, float *row) {
  int64_t i = 0;
  for (; i + levit::PIXEL_LANES <= count; i += levit::PIXEL_LANES) {
    for (int64_t j = 0; j < levit::PIXEL_LANES; j++) {
      row[i + j] = (float)pixels[i + j] * scale[j] + shift[j];
    }
  }
  for (int64_t j = 0; i + j < count; j++) row[i + j] = (float)pixels[i + j] * scale[j] + shift[j];
}

// Row `y` of planes as floats, channels in turn.
LEVIT_INLINE void interleave(const ImageWork &work, int64_t y, float *row) {
  const float *plane = (const float *)work.image + y * work.width;
  const int64_t next = work.height * work.width;
  if (work.channels == 3) {
    for (int64_t x = 0; x < work.width; x++) {
      row[3 * x] = plane[x];
      row[3 * x + 1] = plane[next + x];
      row[3 * x + 2] = plane[2 * next + x];
    }
    return;
  }
  for (int64_t c = 0; c < work.channels; c++) {
    for (int64_t x = 0; x < work.width; x++) row[x * work.channels + c] = plane[c * next + x];
  }
}

// Pixels as floats by the table of each channel, channels in turn.
template <int CHANNELS>
LEVIT_INLINE void look_up(const uint8_t *pixels, int64_t count, const float *tables, float *row) {
  for (int64_t x = 0; x < count; x++, pixels += CHANNELS, row += CHANNELS) {
    LEVIT_UNROLL for (int c = 0; c < CHANNELS; c++) {
      row[c] = tables[c * levit::PIXEL_VALUES + pixels[c]];
    }
  }
}

constexpr void (*look_ups[])(const uint8_t *, int64_t, const float *,
                             float *) = {look_up<1>, look_up<2>, look_up<3>, look_up<4>};

// Row `y` in floats, channels in turn.
LEVIT_INLINE void float_row(const ImageWork &work, int64_t y, float *row) {
  const int64_t count = work.width * work.channels;
  const uint8_t *pixels = (const uint8_t *)work.image + y * count;
  if (work.tables) {
    look_ups[work.channels - 1](pixels, work.width, work.tables, row);
  } else if (work.is_uint8) {
    normalise(pixels, count, work.scale, work.shift, row);
  } else {
    interleave(work, y, row);
  }
}

// Pixels of three channels, each into four, the last of which is 0.
template <class Four>
LEVIT_INLINE void spread_threes(const uint8_t *values, int64_t pixels, char *row) {
  constexpr size_t THREE = sizeof(Four) / 4 * 3;
  constexpr Four KEPT = (Four)-1 >> (8 * (sizeof(Four) - THREE));
  Four pixel;
  for (int64_t x = 0; x + 1 < pixels; x++) { // the last has nothing behind it
    memcpy(&pixel, values + x * (int64_t)THREE, sizeof pixel);
    pixel &= KEPT;
    memcpy(row + x * (int64_t)sizeof pixel, &pixel, sizeof pixel);
  }
  pixel = 0;
  memcpy(&pixel, values + (pixels - 1) * (int64_t)THREE, THREE);
  memcpy(row + (pixels - 1) * (int64_t)sizeof pixel, &pixel, sizeof pixel);
}

// Numbers of one pixel after another, `channels` each, into pixels of whole words: what fills them
// up is 0, for it is multiplied too.
LEVIT_INLINE void spread(const uint8_t *values, int64_t pixels, int64_t channels, char *row,
                         int64_t pixel, int64_t size) {
  if (channels == 3) {
    return size == 1 ? spread_threes<uint32_t>(values, pixels, row)
                     : spread_threes<uint64_t>(values, pixels, row);
  }
  const int64_t bytes = channels * size;
  for (int64_t x = 0; x < pixels; x++) {
    memcpy(row + x * pixel, values + x * bytes, (size_t)bytes);
    memset(row + x * pixel + bytes, 0, (size_t)(pixel - bytes));
  }
}

// Up to WIDTH floats; what is not there is 0.
LEVIT_INLINE Vec load_some(const float *p, int64_t count) {
  if (count >= WIDTH) return load(p);
  Vec values{};
  memcpy(&values, p, (size_t)count * sizeof(float));
  return values;
}

// One channel of WIDTH pixels, in the place that it has in a word.
LEVIT_INLINE VecInt in_word(const ImageWork &work, Vec x, int place) {
  if constexpr (Number::INTEGER) {
    return nearest_byte(fused(x, splat(work.inverse_scale), splat(work.zero))) << (8 * place);
  } else {
    const VecInt high = (VecInt)as_bfloat16(x);
    return place ? high : (high >> 16 & 0xffff);
  }
}

// Row `y` of planes: words of pixels, each of one or two.
template <int CHANNELS> void pixel_row(const ImageWork &work, int64_t y, char *row) {
  constexpr int WORDS = (CHANNELS + EACH - 1) / EACH;
  const float *plane = (const float *)work.image + y * work.width;
  const int64_t next = work.height * work.width;
  for (int64_t x = 0; x < work.width; x += WIDTH) {
    VecInt word[WORDS < 2 ? 2 : WORDS] = {};
    LEVIT_UNROLL for (int c = 0; c < CHANNELS; c++) {
      const Vec values = load_some(plane + c * next + x, work.width - x);
      word[c / EACH] |= in_word(work, values, c % EACH);
    }
    float *to = (float *)row + x * WORDS;
    if (WORDS == 1) {
      store(to, (Vec)word[0]);
    } else {
      store(to, interleaved_low((Vec)word[0], (Vec)word[1]));
      store(to + WIDTH, interleaved_high((Vec)word[0], (Vec)word[1]));
    }
  }
}

constexpr void (*pixel_rows[])(const ImageWork &, int64_t, char *) = {pixel_row<1>, pixel_row<2>,
                                                                      pixel_row<3>, pixel_row<4>};

// Row `y` of the image after a border pixel at the left; a row of border above the image.
LEVIT_INLINE void image_row(const ImageWork &work, int64_t y, char *row, float *floats) {
  const int64_t pixel = pixel_bytes(work);
  const int64_t outside = y < 0 ? work.width + 1 : 1;
  for (int64_t i = 0; i < outside * pixel; i += 4) {
    const uint32_t word = Number::INTEGER ? work.border : 0;
    memcpy(row + i, &word, 4);
  }
  if (y < 0) return;
  row += pixel;
  if constexpr (Number::DTYPE == LEVIT_FLOAT32) {
    float_row(work, y, (float *)row);
    return;
  }
  const int64_t count = work.width * work.channels, size = size_of(Number::DTYPE);
  if (work.raw) {
    spread((const uint8_t *)work.image + y * count, work.width, work.channels, row, pixel, size);
    return;
  }
  if (!work.is_uint8 && work.channels <= 4) {
    pixel_rows[work.channels - 1](work, y, row);
    return;
  }
  float_row(work, y, floats);
  char *values = (char *)floats; // in place: smaller numbers, read before they are written over
  const Store store_{values, 0, 16 * size, Number::DTYPE, work.inverse_scale, work.zero};
  for (int64_t i = 0; i < count; i += 16) {
    Vec x[CHUNK];
    LEVIT_UNROLL for (int j = 0; j < CHUNK; j++) x[j] = load(floats + i + j * WIDTH);
    put<Number::DTYPE>(store_, 0, i / 16, x);
  }
  spread((const uint8_t *)values, work.width, work.channels, row, pixel, size);
}

void image(const ImageWork &work, float *scratch) {
  Panels panels;
  ConvWork conv = work.conv;
  conv.source_pixel = pixel_bytes(work);
  conv.source_pitch = levit::padded((work.width + 1) * conv.source_pixel / 4) * 4;
  char *rows[3] = {(char *)scratch, (char *)scratch + conv.source_pitch,
                   (char *)scratch + 2 * conv.source_pitch};
  float *floats = (float *)(rows[2] + conv.source_pitch);
  for (int64_t y = conv.rows.begin; y < conv.rows.end; y++) {
    if (y == conv.rows.begin) {
      image_row(work, 2 * y - 1, rows[0], floats);
    } else {
      memcpy(rows[0], rows[2], (size_t)conv.source_pitch);
    }
    image_row(work, 2 * y, rows[1], floats);
    image_row(work, 2 * y + 1, rows[2], floats);
    for (int64_t column = 0; column < conv.columns; column += PANEL) {
      conv_row(conv, rows[0], y, column, panels);
    }
  }
}

} // namespace
