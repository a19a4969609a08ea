// Compiled once for each instruction set, with its flags and -DISA=name.
#include "pixels.h"

#include <string.h>

#include "numbers.h"

namespace {

using levit::Taps;

constexpr int CHANNELS = 4;              // of a pixel, as vectors take it
constexpr int PIXELS = WIDTH / CHANNELS; // in a vector of sums

// WIDTH bytes as numbers, and back, with what is below 0 or above 255 clipped: from `vector_size`
// alone GCC 12 takes them one by one.
LEVIT_INLINE VecInt widened(const uint8_t *p) {
#if defined(__AVX512F__)
  return (VecInt)_mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128((const __m128i *)p));
#elif defined(__AVX2__)
  return (VecInt)_mm256_cvtepu8_epi32(_mm_loadu_si64(p));
#elif defined(__x86_64__)
  const __m128i zero = _mm_setzero_si128();
  return (VecInt)_mm_unpacklo_epi16(_mm_unpacklo_epi8(_mm_loadu_si32(p), zero), zero);
#else
  uint32_t bytes;
  memcpy(&bytes, p, sizeof bytes);
  return (VecInt)vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(bytes))));
#endif
}

LEVIT_INLINE void store_bytes(uint8_t *p, VecInt x) {
#if defined(__AVX512F__)
  x = x > 0 ? x : VecInt{};
  _mm_storeu_si128((__m128i *)p, _mm512_maskz_cvtusepi32_epi8(0xffff, (__m512i)x));
#elif defined(__AVX2__)
  const __m128i low = _mm256_castsi256_si128((__m256i)x);
  const __m128i halves = _mm_packs_epi32(low, _mm256_extracti128_si256((__m256i)x, 1));
  _mm_storeu_si64(p, _mm_packus_epi16(halves, halves));
#elif defined(__x86_64__)
  const __m128i halves = _mm_packs_epi32((__m128i)x, (__m128i)x);
  _mm_storeu_si32(p, _mm_packus_epi16(halves, halves));
#else
  const int16x4_t halves = vqmovn_s32((int32x4_t)x);
  const uint8x8_t bytes = vqmovun_s16(vcombine_s16(halves, halves));
  const uint32_t word = vget_lane_u32(vreinterpret_u32_u8(bytes), 0);
  memcpy(p, &word, sizeof word);
#endif
}

// Sums modulo 2^32: only in the channel that nobody reads do they ever go round.
LEVIT_INLINE VecInt weighed(VecInt sum, VecInt pixels, VecInt weight) {
  return (VecInt)((VecUint)sum + (VecUint)pixels * (VecUint)weight);
}

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(__ARM_FEATURE_MATMUL_INT8)

// Where the CPU adds up four products of bytes at once, a weight is three digits of 8 bits, and a
// quarter of a vector has four pixels of one row.
constexpr int TAPS = 4;
constexpr bool TAKES_DIGITS = true;

// Four pixels of each row, the four of each channel side by side.
LEVIT_INLINE VecInt four_of_each(const uint8_t *const *row, int64_t at) {
  typedef uint8_t Bytes __attribute__((vector_size(BYTES)));
  Bytes x;
#if defined(__AVX512F__)
  __m512i rows =
      _mm512_maskz_broadcast_i32x4(0x000f, _mm_loadu_si128((const __m128i *)(row[0] + at)));
  rows = _mm512_mask_broadcast_i32x4(rows, 0x00f0, _mm_loadu_si128((const __m128i *)(row[1] + at)));
  rows = _mm512_mask_broadcast_i32x4(rows, 0x0f00, _mm_loadu_si128((const __m128i *)(row[2] + at)));
  rows = _mm512_mask_broadcast_i32x4(rows, 0xf000, _mm_loadu_si128((const __m128i *)(row[3] + at)));
  x = (Bytes)rows;
#elif defined(__AVX2__)
  x = (Bytes)_mm256_loadu2_m128i((const __m128i_u *)(row[1] + at),
                                 (const __m128i_u *)(row[0] + at));
#else
  memcpy(&x, row[0] + at, sizeof x);
#endif
#define LEVIT_FOUR(i)                                                                              \
  i, i + 4, i + 8, i + 12, i + 1, i + 5, i + 9, i + 13, i + 2, i + 6, i + 10, i + 14, i + 3,       \
      i + 7, i + 11, i + 15
#if defined(__AVX512F__)
  return (VecInt)__builtin_shufflevector(x, x, LEVIT_FOUR(0), LEVIT_FOUR(16), LEVIT_FOUR(32),
                                         LEVIT_FOUR(48));
#elif defined(__AVX2__)
  return (VecInt)__builtin_shufflevector(x, x, LEVIT_FOUR(0), LEVIT_FOUR(16));
#else
  return (VecInt)__builtin_shufflevector(x, x, LEVIT_FOUR(0));
#endif
}

// One output of PIXELS rows, not yet rounded: that of each in its place.
LEVIT_INLINE VecInt output(const uint8_t *const *row, const Taps &taps, int64_t x) {
  const char *digits = taps.digits(x);
  const int64_t first = taps.first(x) * CHANNELS, width = taps.taps() * CHANNELS;
  VecInt sum[levit::DIGITS] = {};
  for (int64_t at = 0; at < width; at += TAPS * CHANNELS, digits += TAPS * levit::DIGITS) {
    const VecInt pixels = four_of_each(row, first + at);
    LEVIT_UNROLL for (int d = 0; d < levit::DIGITS; d++) {
      sum[d] = Uint8::dot(sum[d], pixels, (Vec)broadcast_word(digits + TAPS * d));
    }
  }
  return added(sum[0], added(sum[1] << 8, sum[2] << 16));
}

#else

constexpr int TAPS = PIXELS;
constexpr bool TAKES_DIGITS = false;

// Weights of pixels that follow each other, each for all channels of its own.
LEVIT_INLINE VecInt spread_weights(const int32_t *p) {
#if defined(__AVX512F__)
  const __m512i four = _mm512_maskz_broadcast_i32x4(0xffff, _mm_loadu_si128((const __m128i *)p));
  const VecInt own{0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
  return (VecInt)_mm512_maskz_permutevar_ps(0xffff, (__m512)four, (__m512i)own);
#elif defined(__AVX2__)
  const VecInt own{0, 0, 0, 0, 1, 1, 1, 1};
  const __m256i two = _mm256_broadcastq_epi64(_mm_loadu_si64(p));
  return (VecInt)_mm256_permutevar_ps((__m256)two, (__m256i)own);
#else
  return VecInt{} + p[0];
#endif
}

// The pixels of a vector added up, of several vectors: the sum of each in its place.
LEVIT_INLINE VecInt summed(const VecInt *x) {
#if defined(__AVX512F__)
  VecInt halves[2];
  LEVIT_UNROLL for (int i = 0; i < 2; i++) {
    const VecInt a = x[2 * i], b = x[2 * i + 1];
    halves[i] = added(
        __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27),
        __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31));
  }
  const VecInt a = halves[0], b = halves[1];
  return added(
      __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27),
      __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31));
#elif defined(__AVX2__)
  return added(__builtin_shufflevector(x[0], x[1], 0, 1, 2, 3, 8, 9, 10, 11),
               __builtin_shufflevector(x[0], x[1], 4, 5, 6, 7, 12, 13, 14, 15));
#else
  return x[0];
#endif
}

// One output of PIXELS rows, not yet rounded: that of each in its place.
LEVIT_INLINE VecInt output(const uint8_t *const *row, const Taps &taps, int64_t x) {
  const int32_t *weights = taps.weights(x);
  const int64_t first = taps.first(x) * CHANNELS;
  VecInt sum[PIXELS] = {};
  for (int64_t t = 0; t < taps.taps(); t += PIXELS) {
    const VecInt weight = spread_weights(weights + t);
    LEVIT_UNROLL for (int r = 0; r < PIXELS; r++) {
      sum[r] = weighed(sum[r], widened(row[r] + first + t * CHANNELS), weight);
    }
  }
  return summed(sum);
}

#endif

LEVIT_INLINE VecInt rounded(VecInt sum) {
  return added(sum, VecInt{} + (1 << (levit::WEIGHT_BITS - 1))) >> levit::WEIGHT_BITS;
}

void across(const uint8_t *const *rows, const Taps &taps, uint8_t *const *targets, int64_t pixel) {
  const uint8_t *row[PIXELS];
  uint8_t *target[PIXELS];
  for (int r = 0; r < PIXELS; r++) row[r] = rows[r], target[r] = targets[r];
  const int64_t count = taps.count();
  for (int64_t x = 0; x < count; x++) {
    uint8_t bytes[WIDTH];
    store_bytes(bytes, rounded(output(row, taps, x)));
    LEVIT_UNROLL for (int r = 0; r < PIXELS; r++) {
      memcpy(target[r] + x * pixel, bytes + r * CHANNELS, CHANNELS);
    }
  }
}

// COUNT vectors of sums of rows, from byte `at` on.
template <int COUNT>
LEVIT_INLINE void down_part(const uint8_t *const *rows, const int32_t *weights, int64_t taps,
                            int64_t at, uint8_t *target) {
  VecInt sum[COUNT] = {};
  for (int64_t t = 0; t < taps; t++) {
    const VecInt weight = VecInt{} + weights[t];
    const uint8_t *row = rows[t] + at;
    LEVIT_UNROLL for (int i = 0; i < COUNT; i++) {
      sum[i] = weighed(sum[i], widened(row + i * WIDTH), weight);
    }
  }
  LEVIT_UNROLL for (int i = 0; i < COUNT; i++) {
    store_bytes(target + at + i * WIDTH, rounded(sum[i]));
  }
}

void down(const uint8_t *const *rows, const int32_t *weights, int64_t taps, int64_t bytes,
          uint8_t *target) {
  constexpr int TOGETHER = 6;
  int64_t at = 0;
  for (; at + TOGETHER * WIDTH <= bytes; at += TOGETHER * WIDTH) {
    down_part<TOGETHER>(rows, weights, taps, at, target);
  }
  for (; at + WIDTH <= bytes; at += WIDTH) down_part<1>(rows, weights, taps, at, target);
  if (at < bytes && bytes >= WIDTH) { // the last ones a second time, with those before them
    down_part<1>(rows, weights, taps, bytes - WIDTH, target);
    return;
  }
  for (; at < bytes; at++) {
    int32_t sum = 1 << (levit::WEIGHT_BITS - 1);
    for (int64_t t = 0; t < taps; t++) sum += rows[t][at] * weights[t];
    sum >>= levit::WEIGHT_BITS;
    target[at] = (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
  }
}

typedef uint8_t Sixteen __attribute__((vector_size(16)));
typedef uint8_t SixteenLoose __attribute__((vector_size(16), aligned(1), may_alias));

void spread(const uint8_t *source, int64_t pixels, int64_t channels, bool reversed, uint8_t *row) {
  if (channels == 1) {
    for (int64_t x = 0; x < pixels; x++) {
      const uint32_t grey = source[x];
      memcpy(row + x * CHANNELS, &grey, CHANNELS);
    }
    return;
  }
  int64_t x = 0;
  for (; 3 * x + 16 <= 3 * pixels; x += 4) {
    const Sixteen four = *(const SixteenLoose *)(source + 3 * x);
    *(SixteenLoose *)(row + x * CHANNELS) =
        reversed ? __builtin_shufflevector(four, Sixteen{}, 2, 1, 0, 16, 5, 4, 3, 16, 8, 7, 6, 16,
                                           11, 10, 9, 16)
                 : __builtin_shufflevector(four, Sixteen{}, 0, 1, 2, 16, 3, 4, 5, 16, 6, 7, 8, 16,
                                           9, 10, 11, 16);
  }
  for (; x < pixels; x++) {
    for (int c = 0; c < 3; c++) row[x * CHANNELS + c] = source[3 * x + (reversed ? 2 - c : c)];
    row[x * CHANNELS + 3] = 0;
  }
}

template <int COUNT>
LEVIT_INLINE void planes_of(const uint8_t *pixels, int64_t count, const float *tables,
                            float *planes) {
  for (int64_t x = 0; x < count; x++) {
    LEVIT_UNROLL for (int c = 0; c < COUNT; c++) {
      planes[c * count + x] = tables[256 * c + pixels[x * COUNT + c]];
    }
  }
}

void planes(const uint8_t *pixels, int64_t count, int64_t channels, const float *tables,
            float *target) {
  switch (channels) {
  case 1: return planes_of<1>(pixels, count, tables, target);
  case 3: return planes_of<3>(pixels, count, tables, target);
  default: return planes_of<4>(pixels, count, tables, target);
  }
}

} // namespace

#define LEVIT_JOINED(a, b) a##b
#define LEVIT_NAMED(a, b) LEVIT_JOINED(a, b)

namespace levit {
extern const PixelKernels LEVIT_NAMED(pixels_, ISA);
const PixelKernels LEVIT_NAMED(pixels_, ISA) = {PIXELS, TAPS,   TAKES_DIGITS, across,
                                                down,   spread, planes};
} // namespace levit
