// The weights by which pixels of one axis become those of a resized one, as Pillow computes them.
#pragma once
#include <stdint.h>
#include <stdlib.h>

#include "abi.h"

namespace levit {

constexpr int WEIGHT_BITS = 22; // of a weight of 1
constexpr int DIGITS = 3;       // of 8 bits, in a weight: none is as large as 2

// Some outputs of an axis. Each is a sum over pixels that follow each other.
class Taps {
public:
  Taps() = default;
  Taps(const Taps &) = delete;
  Taps &operator=(const Taps &) = delete;
  ~Taps() {
    free(first_);
    free(weights_);
    free(digits_);
  }

  // Of an axis of `source` pixels that is resized to `resized`, those outputs from `begin` to
  // `end`. Each gets a multiple of `together` taps, of which the rest weigh nothing. False where
  // there is no memory.
  bool compute(int64_t filter, int64_t source, int64_t resized, int64_t begin, int64_t end,
               int64_t together);

  int64_t count() const { return count_; }
  int64_t taps() const { return taps_; }
  int64_t first(int64_t output) const { return first_[output]; }
  const int32_t *weights(int64_t output) const { return weights_ + output * taps_; }
  // The same in digits of signed bytes, after `split`: DIGITS words of four taps each.
  const char *digits(int64_t output) const { return digits_ + output * taps_ * DIGITS; }
  // Of taps that are a multiple of four; false where there is no memory.
  bool split();

private:
  void copy_nearest(int64_t source, int64_t resized, int64_t begin);

  int64_t count_ = 0, taps_ = 0;
  int64_t *first_ = nullptr;
  int32_t *weights_ = nullptr;
  char *digits_ = nullptr;
};

} // namespace levit
