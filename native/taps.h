// The weights by which pixels of one axis become those of a resized one, as Pillow computes them.
#pragma once
#include <stdint.h>
#include <stdlib.h>

#include "abi.h"

namespace levit {

constexpr int WEIGHT_BITS = 22; // of a weight of 1

// Some outputs of an axis. Each is a sum over pixels that follow each other.
class Taps {
public:
  Taps() = default;
  Taps(const Taps &) = delete;
  Taps &operator=(const Taps &) = delete;
  ~Taps() {
    free(first_);
    free(weights_);
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

private:
  void copy_nearest(int64_t source, int64_t resized, int64_t begin);

  int64_t count_ = 0, taps_ = 0;
  int64_t *first_ = nullptr;
  int32_t *weights_ = nullptr;
};

} // namespace levit
