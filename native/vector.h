// Vectors of the instruction set that this file is compiled for, in the compilers' own extensions;
// intrinsics only where those have no word for it.
#pragma once
#include <stdint.h>
#if defined(__aarch64__)
#include <arm_neon.h>
#elif defined(__x86_64__)
#include <immintrin.h>
#endif

#define LEVIT_INLINE __attribute__((always_inline)) inline
#define LEVIT_UNROLL _Pragma("GCC unroll 32")

namespace {

#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX2__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif
constexpr int WIDTH = BYTES / 4;

typedef float Vec __attribute__((vector_size(BYTES)));
typedef int32_t VecInt __attribute__((vector_size(BYTES)));
typedef uint32_t VecUint __attribute__((vector_size(BYTES)));
typedef int16_t VecShort __attribute__((vector_size(BYTES)));
typedef uint16_t VecUshort __attribute__((vector_size(BYTES)));
typedef float VecLoose __attribute__((vector_size(BYTES), aligned(4), may_alias));
typedef float Word __attribute__((aligned(1), may_alias));
typedef int32_t IntWord __attribute__((aligned(1), may_alias));

// Sums of 32 bits, which go round where they are too large.
LEVIT_INLINE VecInt added(VecInt a, VecInt b) { return (VecInt)((VecUint)a + (VecUint)b); }
LEVIT_INLINE Vec added(Vec a, Vec b) { return a + b; }

LEVIT_INLINE Vec load(const float *p) { return *(const VecLoose *)p; }
LEVIT_INLINE void store(float *p, Vec x) { *(VecLoose *)p = x; }
LEVIT_INLINE Vec splat(float x) { return x - Vec{}; }

// Asks for a line that will be written: the compilers have this instruction only for some CPUs, and
// the others ignore it.
LEVIT_INLINE void fetch_to_write(const char *p) {
#if defined(__x86_64__)
  __asm__ volatile("prefetchw %0" ::"m"(*p));
#else
  __builtin_prefetch(p, 1);
#endif
}

// Keeps a broadcast in a register: compilers would fold it into each multiply-add that reads it,
// and load it once for every vector.
LEVIT_INLINE Vec pinned(Vec x) {
#if defined(__x86_64__)
  __asm__("" : "+v"(x));
#elif defined(__aarch64__)
  __asm__("" : "+w"(x));
#endif
  return x;
}

#if !defined(__AVX2__) && !defined(__aarch64__)
// x * y + z rounded once, in doubles: the product is exact there. A sum that is not gets an odd
// last bit, and so lies halfway between two floats only where the exact one does.
LEVIT_INLINE float fused(float x, float y, float z) {
  const double product = (double)x * (double)y;
  double sum = product + (double)z;
  const double part = sum - product;
  const double lost = (product - (sum - part)) + ((double)z - part);
  int64_t bits = __builtin_bit_cast(int64_t, sum);
  if ((lost > 0 || lost < 0) && bits % 2 == 0) {
    bits += (lost > 0) == (sum > 0) ? 1 : -1;
    sum = __builtin_bit_cast(double, bits);
  }
  return (float)sum;
}
#endif

// sum + x * y, by the instruction itself: from the expression both compilers make code that moves
// accumulators of a full tile to the stack and back (clang's took 1.6 times as long).
LEVIT_INLINE Vec multiplied_in(Vec sum, Vec x, Vec y) {
#if defined(__AVX2__)
  __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));
  return sum;
#elif defined(__aarch64__)
  __asm__("fmla %0.4s, %1.4s, %2.4s" : "+w"(sum) : "w"(x), "w"(y));
  return sum;
#else
  return sum + x * y;
#endif
}

// x * y + z, rounded once: by itself wherever the CPU can, so that no compiler decides it.
LEVIT_INLINE Vec fused(Vec x, Vec y, Vec z) {
#if defined(__AVX512F__)
  return (Vec)_mm512_fmadd_ps((__m512)x, (__m512)y, (__m512)z);
#elif defined(__AVX2__)
  return (Vec)_mm256_fmadd_ps((__m256)x, (__m256)y, (__m256)z);
#elif defined(__aarch64__)
  return (Vec)vfmaq_f32((float32x4_t)z, (float32x4_t)x, (float32x4_t)y);
#else
  for (int i = 0; i < WIDTH; i++) z[i] = fused(x[i], y[i], z[i]);
  return z;
#endif
}

// Compilers know a comparison and a choice as one instruction; GCC only where neither side is a
// constant, hence `pinned` around those.
LEVIT_INLINE Vec maximum(Vec a, Vec b) {
#if defined(__aarch64__)
  return (Vec)vmaxq_f32((float32x4_t)a, (float32x4_t)b);
#else
  return a > b ? a : b;
#endif
}

LEVIT_INLINE Vec minimum(Vec a, Vec b) {
#if defined(__aarch64__)
  return (Vec)vminq_f32((float32x4_t)a, (float32x4_t)b);
#else
  return a < b ? a : b;
#endif
}

// The other half of a vector, of each half of it, and so on, beside every entry: what is combined
// with them all has the result everywhere.
template <class Combine> LEVIT_INLINE Vec reduced(Vec x, Combine combine) {
#if defined(__AVX512F__)
  x = combine(x,
              __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
  x = combine(x,
              __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
  x = combine(x,
              __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
  return combine(
      x, __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
#elif defined(__AVX2__)
  x = combine(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3));
  x = combine(x, __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5));
  return combine(x, __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6));
#else
  x = combine(x, __builtin_shufflevector(x, x, 2, 3, 0, 1));
  return combine(x, __builtin_shufflevector(x, x, 1, 0, 3, 2));
#endif
}

// 2^x for x <= 127, at most 1 ulp off; below -126 it stays 2^-126. x = n + f, |f| <= 1/2: n goes to
// the exponent, 2^f is a polynomial fitted to the smallest largest relative error.
LEVIT_INLINE Vec exp2(Vec x) {
  x = maximum(pinned(splat(-126.0f)), x); // in this order NaN stays NaN
  const Vec magic = splat(12582912.0f);   // 1.5 * 2^23: adding it rounds to a whole number
  Vec shifted = x + magic;
  Vec f = x - (shifted - magic);
  Vec p = f * splat(0.00015353362f) + splat(0.0013398875f);
  p = p * f + splat(0.00961843692f);
  p = p * f + splat(0.0555033237f);
  p = p * f + splat(0.240226477f);
  p = p * f + splat(0.693147182f);
  p = p * f + splat(1.0f);
  return (Vec)((VecInt)p + ((VecInt)shifted << 23));
}

} // namespace
