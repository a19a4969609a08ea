// Values into memory, 16 columns of a row at a time, in the numbers of whatever reads them.
#pragma once
#include "kernels.h"
#include "vector.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

using levit::size_of;
using levit::Store;

constexpr int CHUNK = 16 / WIDTH; // vectors of 16 columns

// The nearest whole number, or else the even one.
LEVIT_INLINE VecInt nearest(Vec x) {
#if defined(__AVX512F__) // as an instruction: GCC 12 warns of its own intrinsic
  VecInt whole;
  __asm__("vcvtps2dq %1, %0" : "=v"(whole) : "v"(x));
  return whole;
#elif defined(__AVX2__)
  return (VecInt)_mm256_cvtps_epi32((__m256)x);
#elif defined(__aarch64__)
  return (VecInt)vcvtnq_s32_f32((float32x4_t)x);
#else
  return (VecInt)_mm_cvtps_epi32((__m128)x);
#endif
}

// The nearest byte; beyond 0 and 255 these, and of NaN 0.
LEVIT_INLINE VecInt nearest_byte(Vec x) {
  // In this order NaN becomes 0 where a maximum is the second of two that do not compare.
  return nearest(minimum(maximum(x, pinned(Vec{})), pinned(splat(255.0f))));
}

// The same for `store_bytes`: AVX-512 stores 255 for all that is more.
LEVIT_INLINE VecInt nearest_stored(Vec x) {
#if defined(__AVX512F__)
  return nearest(maximum(x, pinned(Vec{})));
#else
  return nearest_byte(x);
#endif
}

// Stores 16 columns of whole numbers from 0 to 255; on AVX-512 255 for all that is more.
LEVIT_INLINE void store_bytes(char *p, const VecInt *x) {
#if defined(__AVX512F__)
  typedef uint8_t Kept __attribute__((vector_size(16), aligned(1), may_alias));
  __asm__("vpmovusdb %1, %0" : "=m"(*(Kept *)p) : "v"(x[0]));
#elif defined(__AVX2__)
  const __m256i pairs = _mm256_packs_epi32((__m256i)x[0], (__m256i)x[1]);
  const __m256i bytes = _mm256_packus_epi16(pairs, pairs);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
  _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(bytes, order)));
#elif defined(__aarch64__)
  int16x4_t half[4];
  LEVIT_UNROLL for (int i = 0; i < 4; i++) half[i] = vmovn_s32((int32x4_t)x[i]);
  const uint8x8_t low = vqmovun_s16(vcombine_s16(half[0], half[1]));
  vst1q_u8((uint8_t *)p, vcombine_u8(low, vqmovun_s16(vcombine_s16(half[2], half[3]))));
#else
  _mm_storeu_si128((__m128i *)p, _mm_packus_epi16(_mm_packs_epi32((__m128i)x[0], (__m128i)x[1]),
                                                  _mm_packs_epi32((__m128i)x[2], (__m128i)x[3])));
#endif
}

// The value of the nearest bfloat16, or else the even one; NaN stays NaN.
LEVIT_INLINE Vec as_bfloat16(Vec x) {
  const VecInt bits = (VecInt)x;
  const VecInt half = 0x7fff + (bits >> 16 & 1);
  const VecInt rounded = added(bits, half) & (int32_t)0xffff0000;
  return (Vec)(x == x ? rounded : VecInt{} + 0x7fc00000);
}

LEVIT_INLINE void store_halves(char *p, const Vec *x) {
#if defined(__AVX512BF16__)
  typedef uint8_t Kept __attribute__((vector_size(32), aligned(1), may_alias));
  Kept halves;
  __asm__("vcvtneps2bf16 %1, %0" : "=v"(halves) : "v"(x[0]));
  *(Kept *)p = halves;
#else
  typedef uint16_t Halves __attribute__((vector_size(WIDTH * 2)));
  typedef uint16_t HalvesLoose __attribute__((vector_size(WIDTH * 2), aligned(2), may_alias));
  LEVIT_UNROLL for (int i = 0; i < CHUNK; i++) {
    const VecInt bits = (VecInt)as_bfloat16(x[i]) >> 16;
    *(HalvesLoose *)(p + 2 * WIDTH * i) = __builtin_convertvector(bits, Halves);
  }
#endif
}

// Stores 16 columns, CHUNK vectors, of row r; c counts 16 columns each.
template <int DTYPE>
LEVIT_INLINE void put(const Store &store_, int64_t r, int64_t c, const Vec *x) {
  char *p = store_.p + r * store_.row_stride + c * store_.chunk_stride;
  if constexpr (DTYPE == LEVIT_FLOAT32) {
    LEVIT_UNROLL for (int i = 0; i < CHUNK; i++) store((float *)p + i * WIDTH, x[i]);
  } else if constexpr (DTYPE == LEVIT_BFLOAT16) {
    store_halves(p, x);
  } else {
    VecInt bytes[CHUNK];
    LEVIT_UNROLL for (int i = 0; i < CHUNK; i++) {
      bytes[i] = nearest_stored(fused(x[i], splat(store_.inverse_scale), splat(store_.shift)));
    }
    store_bytes(p, bytes);
  }
}

// The same where it is not known beforehand in which numbers.
LEVIT_INLINE void put(const Store &store_, int64_t r, int64_t c, const Vec *x) {
  switch (store_.dtype) {
  case LEVIT_FLOAT32: return put<LEVIT_FLOAT32>(store_, r, c, x);
  case LEVIT_BFLOAT16: return put<LEVIT_BFLOAT16>(store_, r, c, x);
  case LEVIT_UINT8: return put<LEVIT_UINT8>(store_, r, c, x);
  }
}

} // namespace
