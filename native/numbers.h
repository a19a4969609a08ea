// Numbers that products are made of. In each, a word of 4 bytes of the left operand meets a vector
// of words of the right one: one float32, two bfloat16, or four bytes, whose products are added up
// within the word. So the same loops, packed weights and strides serve them all.
#pragma once
#include "abi.h"
#include "vector.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

struct Float32 {
  static constexpr int DTYPE = LEVIT_FLOAT32, EACH = 1;
  static constexpr bool INTEGER = false, SIGNED_LEFT = false;
  typedef Vec Sum;
  typedef Vec Left;
  static LEVIT_INLINE Left broadcast(const char *p) { return pinned(splat(*(const Word *)p)); }
  static LEVIT_INLINE Sum dot(Sum sum, Left x, Vec w) { return multiplied_in(sum, x, w); }
};

LEVIT_INLINE VecInt broadcast_word(const char *p) {
  return (VecInt)pinned((Vec)(*(const IntWord *)p - VecInt{}));
}

struct Bfloat16 {
  static constexpr int DTYPE = LEVIT_BFLOAT16, EACH = 2;
  static constexpr bool INTEGER = false, SIGNED_LEFT = false;
  typedef Vec Sum;
  typedef VecInt Left;
  static LEVIT_INLINE Left broadcast(const char *p) { return broadcast_word(p); }
  static LEVIT_INLINE Sum dot(Sum sum, [[maybe_unused]] Left x, [[maybe_unused]] Vec w) {
#if defined(__AVX512BF16__)
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
    __asm__("bfdot %0.4s, %1.8h, %2.8h" : "+w"(sum) : "w"(x), "w"(w));
#endif
    return sum;
  }
};

// Unsigned bytes times signed ones. Where the instruction has signed bytes at the left, 128 is
// taken off them first (SIGNED_LEFT), and what that changes is in the start of the sums.
struct Uint8 {
  static constexpr int DTYPE = LEVIT_UINT8, EACH = 4;
  static constexpr bool INTEGER = true;
  typedef VecInt Sum;
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(__ARM_FEATURE_MATMUL_INT8)
  static constexpr bool SIGNED_LEFT = false;
  typedef VecInt Left;
  static LEVIT_INLINE Left broadcast(const char *p) { return broadcast_word(p); }
  static LEVIT_INLINE Sum dot(Sum sum, Left x, Vec w) {
#if defined(__AVX512VNNI__)
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
#elif defined(__AVXVNNI__)
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "x"(w));
#else
    __asm__("usdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(x), "w"(w));
#endif
    return sum;
  }
#elif defined(__aarch64__)
  static constexpr bool SIGNED_LEFT = true;
  typedef VecInt Left;
  static LEVIT_INLINE Left broadcast(const char *p) {
    return broadcast_word(p) ^ (int32_t)0x80808080;
  }
  static LEVIT_INLINE Sum dot(Sum sum, Left x, Vec w) {
#if defined(__ARM_FEATURE_DOTPROD)
    __asm__("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(x), "w"(w));
    return sum;
#else
    // Two products of -128 and -128 fit 16 bits no more, hence the sums in pairs of 32.
    const int8x16_t a = (int8x16_t)x, b = (int8x16_t)w;
    const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
    const int16x8_t high = vmull_high_s8(a, b);
    return added(sum, (VecInt)vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
#endif
  }
#else
  // x86 without VNNI: vpmaddubsw would saturate, so bytes are widened to 16 bits, even and odd ones
  // apart, and vpmaddwd adds two exact products.
  static constexpr bool SIGNED_LEFT = false;
  struct Left {
    VecInt even, odd;
  };
  static LEVIT_INLINE Left broadcast(const char *p) {
    const VecInt x = broadcast_word(p);
    return {x & 0x00ff00ff, (VecInt)((VecUshort)x >> 8)};
  }
  static LEVIT_INLINE Sum dot(Sum sum, Left x, Vec w) {
    const VecInt even = (VecInt)(((VecShort)w << 8) >> 8), odd = (VecInt)((VecShort)w >> 8);
    return added(sum, added(pairs(x.even, even), pairs(x.odd, odd)));
  }
  static LEVIT_INLINE VecInt pairs(VecInt a, VecInt b) {
#if defined(__AVX512BW__)
    return (VecInt)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (VecInt)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
    return (VecInt)_mm_madd_epi16((__m128i)a, (__m128i)b);
#endif
  }
#endif
};

} // namespace
