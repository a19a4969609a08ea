// Compiled without fused multiply-adds: a weight's last bit must not depend on the CPU.
#include "taps.h"

#include <math.h>

namespace levit {

namespace {

// Each filter is of the distance to the output, in pixels of the coarser of both sizes.
double box(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

double bilinear(double x) {
  x = fabs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

double hamming(double x) {
  x = fabs(x);
  if (x >= 1.0) return 0.0;
  if (x == 0.0) return 1.0;
  x *= M_PI;
  return sin(x) / x * (0.54f + 0.46f * cos(x)); // floats, whose rounding is in every weight
}

double bicubic(double x) {
  x = fabs(x);
  if (x < 1.0) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * -0.5;
  return 0.0;
}

double sinc(double x) {
  if (x == 0.0) return 1.0;
  x *= M_PI;
  return sin(x) / x;
}

double lanczos(double x) { return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

struct Filter {
  double (*weight)(double);
  double support; // pixels on each side
};

// In the order of `levit_filter`; nearest has no weights.
constexpr Filter FILTERS[] = {{nullptr, 0},   {box, 0.5},     {bilinear, 1.0},
                              {hamming, 1.0}, {bicubic, 2.0}, {lanczos, 3.0}};

int32_t rounded(double weight) {
  return (int32_t)((weight < 0 ? -0.5 : 0.5) + weight * (1 << WEIGHT_BITS));
}

int64_t at_least(int64_t value, int64_t least) { return value < least ? least : value; }
int64_t at_most(int64_t value, int64_t most) { return value > most ? most : value; }

} // namespace

namespace {

// Of one axis that is resized with a filter that has weights.
class Windows {
public:
  Windows(const Filter &filter, int64_t source, int64_t resized)
      : filter_(filter), source_(source), scale_((double)source / (double)resized),
        spread_(scale_ < 1.0 ? 1.0 : scale_), inverse_(1.0 / spread_) {}

  int64_t first(int64_t output) const {
    return at_least((int64_t)(centre(output) - reach() + 0.5), 0);
  }
  int64_t taps(int64_t output) const {
    return at_most((int64_t)(centre(output) + reach() + 0.5), source_) - first(output);
  }
  double weight(int64_t output, int64_t pixel) const {
    return filter_.weight(((double)pixel - centre(output) + 0.5) * inverse_);
  }

private:
  double centre(int64_t output) const { return ((double)output + 0.5) * scale_; }
  double reach() const { return filter_.support * spread_; }

  const Filter &filter_;
  const int64_t source_;
  const double scale_, spread_, inverse_;
};

} // namespace

bool Taps::compute(int64_t filter, int64_t source, int64_t resized, int64_t begin, int64_t end,
                   int64_t together) {
  const bool copies = filter == LEVIT_NEAREST || source == resized;
  const Windows windows(FILTERS[filter], source, resized);
  count_ = end - begin, taps_ = 1;
  for (int64_t i = begin; !copies && i < end; i++) taps_ = at_least(windows.taps(i), taps_);
  taps_ = (taps_ + together - 1) / together * together;
  first_ = (int64_t *)calloc((size_t)count_, sizeof *first_);
  weights_ = (int32_t *)calloc((size_t)(count_ * taps_), sizeof *weights_);
  if (!first_ || !weights_) return false;
  if (copies) {
    copy_nearest(source, resized, begin);
    return true;
  }
  double *weight = (double *)malloc((size_t)taps_ * sizeof *weight);
  if (!weight) return false;
  for (int64_t i = 0; i < count_; i++) {
    const int64_t first = windows.first(begin + i), taps = windows.taps(begin + i);
    double sum = 0.0;
    for (int64_t t = 0; t < taps; t++) sum += weight[t] = windows.weight(begin + i, first + t);
    // So far left that all taps are pixels, also those that weigh nothing.
    first_[i] = at_least(at_most(first, source - taps_), 0);
    int32_t *kept = weights_ + i * taps_ + (first - first_[i]);
    for (int64_t t = 0; t < taps; t++) kept[t] = rounded(sum != 0.0 ? weight[t] / sum : weight[t]);
  }
  free(weight);
  return true;
}

bool Taps::split() {
  digits_ = (char *)calloc((size_t)(count_ * taps_), DIGITS);
  if (!digits_) return false;
  for (int64_t i = 0; i < count_ * taps_; i++) {
    char *digit = digits_ + i / 4 * 4 * DIGITS + i % 4;
    int32_t rest = weights_[i];
    for (int d = 0; d < DIGITS; d++) {
      digit[d * 4] = (char)rest;
      rest = (rest - (int8_t)rest) >> 8;
    }
  }
  return true;
}

// Positions are added up, as Pillow does: products would round otherwise.
void Taps::copy_nearest(int64_t source, int64_t resized, int64_t begin) {
  const double step = (double)source / (double)resized;
  double position = step * 0.5;
  for (int64_t i = 0; i < begin; i++) position += step;
  for (int64_t i = 0; i < count_; i++, position += step) {
    first_[i] = at_most((int64_t)position, at_least(source - taps_, 0));
    // One beyond the last pixel stays black.
    if ((int64_t)position < source) {
      weights_[i * taps_ + ((int64_t)position - first_[i])] = 1 << WEIGHT_BITS;
    }
  }
}

} // namespace levit
