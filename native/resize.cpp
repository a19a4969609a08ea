// Pictures resized and cropped as Pillow does it, of which no row or column is computed that the
// crop drops; the functions of abi.h for pictures.
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "pixels.h"

namespace levit {

namespace {

constexpr int64_t FOUR = 4;          // bytes of a pixel that `across` reads
constexpr int64_t MOST_TOGETHER = 4; // rows

// Rows of bytes, with room for what loops touch beyond their ends.
class Rows {
public:
  Rows() = default;
  Rows(const Rows &) = delete;
  Rows &operator=(const Rows &) = delete;
  ~Rows() { free(start_); }
  bool allocate(int64_t rows, int64_t pitch) {
    pitch_ = (pitch + PIXEL_SLACK) / 16 * 16;
    start_ = (uint8_t *)calloc((size_t)rows, (size_t)pitch_);
    return start_;
  }
  uint8_t *row(int64_t i) const { return start_ + i * pitch_; }

private:
  uint8_t *start_ = nullptr;
  int64_t pitch_ = 0;
};

// One picture's way to its crop. Outputs are those columns and rows of the resized picture that the
// crop keeps.
class Resize {
public:
  Resize(const PixelKernels &kernels, const levit_picture &picture, const levit_crop &crop,
         uint8_t *target)
      : kernels_(kernels), picture_(picture), crop_(crop), target_(target),
        channels_(picture.pixel == 1 ? 1 : 3) {}

  bool run() {
    const Range x = kept(crop_.left, crop_.crop_width, crop_.width);
    const Range y = kept(crop_.top, crop_.crop_height, crop_.height);
    const int64_t row = crop_.crop_width * channels_;
    if (y.end - y.begin < crop_.crop_height || x.end - x.begin < crop_.crop_width) {
      memset(target_, 0, (size_t)(crop_.crop_height * row)); // what lies beyond is black
    }
    if (y.begin >= y.end || x.begin >= x.end) return true;
    target_ += (y.begin - crop_.top) * row + (x.begin - crop_.left) * channels_;
    // All of a row's taps lie within it: of a narrower one they are read from a copy.
    if (!columns_.compute(crop_.filter, picture_.width, crop_.width, x.begin, x.end,
                          kernels_.taps) ||
        (kernels_.takes_digits && !columns_.split()) ||
        !rows_.compute(crop_.filter, picture_.height, crop_.height, y.begin, y.end, 1)) {
      return false;
    }
    return crop_.rows_first ? run_rows_first() : run_columns_first();
  }

private:
  static Range kept(int64_t begin, int64_t count, int64_t size) {
    return {begin < 0 ? 0 : begin, begin + count < size ? begin + count : size};
  }

  const uint8_t *source(int64_t y) const {
    return (const uint8_t *)picture_.pixels + y * picture_.pitch;
  }

  bool is_copied() const { return picture_.pixel != FOUR || columns_.taps() > picture_.width; }

  // A row of the picture's numbers as pixels of four bytes.
  void spread(const uint8_t *row, int64_t pixels, uint8_t *copy) const {
    if (picture_.pixel == FOUR) {
      memcpy(copy, row, (size_t)(pixels * FOUR));
    } else {
      kernels_.spread(row, pixels, channels_, picture_.reversed, copy);
    }
  }

  // Columns first: of the rows that come out, those that are still needed are kept, in a ring.
  bool run_columns_first() {
    const int64_t together = kernels_.rows, ring = rows_.taps() + together;
    const int64_t width = columns_.count() * channels_, row = crop_.crop_width * channels_;
    const int64_t padded = columns_.taps() > picture_.width ? columns_.taps() : picture_.width;
    Rows kept, copies, pointers;
    if (!kept.allocate(ring, width) || !copies.allocate(together, padded * FOUR) ||
        !pointers.allocate(1, rows_.taps() * (int64_t)sizeof(uint8_t *))) {
      return false;
    }
    const uint8_t **sources = (const uint8_t **)pointers.row(0);
    int64_t next = 0; // row of the picture that `across` has not seen
    for (int64_t y = 0; y < rows_.count(); y++) {
      const int64_t first = rows_.first(y), end = first + rows_.taps();
      if (next < first) next = first;
      while (next < end) {
        const uint8_t *from[MOST_TOGETHER];
        uint8_t *to[MOST_TOGETHER];
        for (int64_t r = 0; r < together; r++) {
          const int64_t number = next + r < picture_.height ? next + r : picture_.height - 1;
          from[r] = source(number);
          if (is_copied()) {
            spread(from[r], picture_.width, copies.row(r));
            from[r] = copies.row(r);
          }
          to[r] = kept.row(number % ring);
        }
        kernels_.across(from, columns_, to, channels_);
        next += together;
      }
      for (int64_t t = 0; t < rows_.taps(); t++) sources[t] = kept.row((first + t) % ring);
      kernels_.down(sources, rows_.weights(y), rows_.taps(), width, target_ + y * row);
    }
    return true;
  }

  // Rows first, of those columns alone that the others are summed from.
  bool run_rows_first() {
    const int64_t together = kernels_.rows, row = crop_.crop_width * channels_;
    const int64_t last = columns_.count() - 1, pixel = picture_.pixel;
    const int64_t begin = columns_.first(0);
    int64_t count = columns_.first(last) + columns_.taps() - begin;
    if (count > picture_.width) count = picture_.width;
    const int64_t padded = columns_.taps() > count ? columns_.taps() : count;
    Rows sums, copies, results, pointers;
    if (!sums.allocate(together, count * pixel) ||
        !copies.allocate(together, (begin + padded) * FOUR) ||
        !results.allocate(together, columns_.count() * channels_) ||
        !pointers.allocate(1, rows_.taps() * (int64_t)sizeof(uint8_t *))) {
      return false;
    }
    const uint8_t **sources = (const uint8_t **)pointers.row(0);
    for (int64_t y = 0; y < rows_.count(); y += together) {
      const uint8_t *from[MOST_TOGETHER];
      uint8_t *to[MOST_TOGETHER];
      for (int64_t r = 0; r < together; r++) {
        const int64_t number = y + r < rows_.count() ? y + r : rows_.count() - 1;
        for (int64_t t = 0; t < rows_.taps(); t++) {
          sources[t] = source(rows_.first(number) + t) + begin * pixel;
        }
        kernels_.down(sources, rows_.weights(number), rows_.taps(), count * pixel, sums.row(r));
        spread(sums.row(r), count, copies.row(r) + begin * FOUR);
        from[r] = copies.row(r);
        to[r] = results.row(r);
      }
      kernels_.across(from, columns_, to, channels_);
      for (int64_t r = 0; r < together && y + r < rows_.count(); r++) {
        memcpy(target_ + (y + r) * row, to[r], (size_t)(columns_.count() * channels_));
      }
    }
    return true;
  }

  const PixelKernels &kernels_;
  const levit_picture &picture_;
  const levit_crop &crop_;
  uint8_t *target_; // the first pixel that is not black
  const int64_t channels_;
  Taps columns_, rows_;
};

} // namespace

} // namespace levit

using namespace levit;

extern "C" {

int levit_resize(int number, const levit_picture *picture, const levit_crop *crop, void *target) {
  Resize resize(*isa(number).pixels, *picture, *crop, (uint8_t *)target);
  return resize.run() ? LEVIT_OK : LEVIT_NO_MEMORY;
}

void levit_planes(int number, const void *pixels, int64_t count, int64_t channels,
                  const float *tables, float *planes) {
  isa(number).pixels->planes((const uint8_t *)pixels, count, channels, tables, planes);
}
}
