// Activations, on vectors.
#pragma once
#include "abi.h"
#include "vector.h"

namespace {

LEVIT_INLINE Vec hard_swish(Vec x) {
  Vec gate = x * splat(1.0f / 6) + splat(0.5f);
  return x * minimum(maximum(gate, pinned(Vec{})), pinned(splat(1.0f)));
}

LEVIT_INLINE Vec sigmoid(Vec x) {
  // Of large negative x, 2^126 is enough to give 0.
  Vec e = exp2(minimum(x * splat(-1.442695041f), pinned(splat(126.0f))));
  return splat(1.0f) / (splat(1.0f) + e);
}

// erf by Abramowitz and Stegun's 7.1.26: at most 1.5e-7 off.
LEVIT_INLINE Vec gelu(Vec x) {
  Vec z = maximum(x, -x) * splat(0.70710678f);
  Vec t = splat(1.0f) / (splat(1.0f) + splat(0.3275911f) * z);
  Vec p = splat(1.061405429f) * t + splat(-1.453152027f);
  p = p * t + splat(1.421413741f);
  p = p * t + splat(-0.284496736f);
  p = p * t + splat(0.254829592f);
  Vec half_tail = splat(0.5f) * p * t * exp2(z * z * splat(-1.442695041f));
  // Phi(x) is 1 - tail above 0 and tail below.
  return maximum(x, pinned(Vec{})) - maximum(x, -x) * half_tail;
}

LEVIT_INLINE Vec activated(Vec x, int64_t activation) {
  switch (activation) {
  case LEVIT_HARD_SWISH: return hard_swish(x);
  case LEVIT_SILU: return x * sigmoid(x);
  case LEVIT_GELU: return gelu(x);
  }
  return x;
}

} // namespace
