// Activations, on vectors.
#pragma once
#include "abi.h"
#include "vector.h"

namespace {

LEVIT_INLINE Vec hard_swish(Vec x) {
  Vec gate = fused(x, splat(1.0f / 6), splat(0.5f));
  return x * minimum(maximum(gate, pinned(Vec{})), pinned(splat(1.0f)));
}

LEVIT_INLINE Vec sigmoid(Vec x) {
  // Of large negative x, 2^126 is enough to give 0.
  Vec e = exp2(minimum(x * splat(-1.442695041f), pinned(splat(126.0f))));
  return splat(1.0f) / (splat(1.0f) + e);
}

// x * Phi(x) is max(x, 0) less a bump that is even in x, |x| * (1 - Phi(|x|)): |x| times a
// polynomial of m * 2 / c - 1, m being |x| up to c, where next to nothing is left. Fitted to the
// smallest largest error, which is 1.6e-7 (of degree 15) besides rounding.
LEVIT_INLINE Vec gelu(Vec x) {
  const Vec size = (Vec)((VecInt)x & 0x7fffffff);
  const Vec m = minimum(pinned(splat(5.3f)), size); // in this order NaN stays NaN
  const Vec u = m * splat(0.3773585f) + splat(-1.0f);
  Vec p = splat(-0.0042726803f) * u + splat(0.005824558f);
  p = p * u + splat(0.01986665f);
  p = p * u + splat(-0.03908417f);
  p = p * u + splat(-0.022291694f);
  p = p * u + splat(0.105617754f);
  p = p * u + splat(-0.0592521f);
  p = p * u + splat(-0.108308814f);
  p = p * u + splat(0.20236672f);
  p = p * u + splat(-0.08985828f);
  p = p * u + splat(-0.13235201f);
  p = p * u + splat(0.2609431f);
  p = p * u + splat(-0.22249582f);
  p = p * u + splat(0.110839956f);
  p = p * u + splat(-0.03156777f);
  p = p * u + splat(0.0040245983f);
  return maximum(x, pinned(Vec{})) - m * p;
}

// The same with a polynomial of degree 6: 1.4e-4 off, for values that will be bytes. To the last
// bit as in levit/native/integers.py.
LEVIT_INLINE Vec rough_gelu(Vec x) {
  const Vec size = (Vec)((VecInt)x & 0x7fffffff);
  const Vec m = minimum(pinned(splat(3.8f)), size);
  const Vec u = fused(m, splat(0.5263158f), splat(-1.0f));
  Vec p = fused(splat(-0.03455868f), u, splat(0.067654185f));
  p = fused(p, u, splat(0.028192846f));
  p = fused(p, u, splat(-0.19158444f));
  p = fused(p, u, splat(0.22671781f));
  p = fused(p, u, splat(-0.12507144f));
  p = fused(p, u, splat(0.028685872f));
  return fused(-m, p, maximum(x, pinned(Vec{})));
}

// 1 - 2 / (e^2x + 1), 1.5e-7 off; e^2x is not let grow beyond what a float holds.
LEVIT_INLINE Vec tanh(Vec x) {
  Vec e = exp2(minimum(pinned(splat(126.0f)), x * splat(2.885390082f)));
  return splat(1.0f) - splat(2.0f) / (e + splat(1.0f));
}

LEVIT_INLINE Vec activated(Vec x, int64_t activation) {
  switch (activation) {
  case LEVIT_HARD_SWISH: return hard_swish(x);
  case LEVIT_SILU: return x * sigmoid(x);
  case LEVIT_GELU: return gelu(x);
  case LEVIT_TANH: return tanh(x);
  }
  return x;
}

} // namespace
