// Compiled once for each instruction set, with its flags and -DISA=name. No function of the C++
// library is called here: of those the linker keeps one copy for all, which may be an AVX-512 one.
#include "attention.h"
#include "kernels.h"
#include "linear.h"
#include "transpose.h"

namespace {

void pack(const float *weight, int64_t count, int64_t depth, const int32_t *order, int64_t first,
          int64_t columns, float *packed) {
  for (int64_t n = 0; n < count; n += 16) {
    const int64_t at = first + n, panel = at / PANEL * PANEL;
    const int64_t width = columns - panel < PANEL ? 16 : PANEL;
    const int64_t rows = count - n < 16 ? count - n : 16;
    const float *source = weight + n * depth;
    float *target = packed + panel * depth + (at - panel);
    int64_t k = 0;
    for (; !order && k + 16 <= depth; k += 16) {
      transpose16(source + k, depth, rows, target + k * width, width);
    }
    for (; k < depth; k++) {
      const int64_t from = order ? order[k] : k;
      for (int64_t r = 0; r < rows; r++) target[k * width + r] = source[r * depth + from];
    }
  }
}

void mean(const float *source, int64_t rows, int64_t stride, levit::Range columns, float *target) {
  const Vec share = splat(1.0f / (float)rows);
  for (int64_t c = columns.begin; c < columns.end; c += WIDTH) {
    Vec sum{};
    for (int64_t r = 0; r < rows; r++) sum += load(source + r * stride + c);
    store(target + c, sum * share);
  }
}

double multiply_adds(int64_t rounds) {
  constexpr int CHAINS = 12; // more than latency times units of any CPU, fewer than registers
  Vec sum[CHAINS], x = pinned(splat(1e-3f)), y = pinned(splat(1.0f));
  LEVIT_UNROLL for (int i = 0; i < CHAINS; i++) sum[i] = Vec{};
  for (int64_t round = 0; round < rounds; round++) {
    LEVIT_UNROLL for (int i = 0; i < CHAINS; i++) {
      sum[i] = multiplied_in(sum[i], x, y);
      sum[i] = pinned(sum[i]); // or a compiler would find the sum beforehand
    }
  }
  LEVIT_UNROLL for (int i = 1; i < CHAINS; i++) sum[0] += sum[i];
  volatile float kept = sum[0][0];
  (void)kept;
  return (double)rounds * CHAINS * WIDTH;
}

} // namespace

#define LEVIT_JOINED(a, b) a##b
#define LEVIT_NAMED(a, b) LEVIT_JOINED(a, b)

namespace levit {
extern const Kernels LEVIT_NAMED(kernels_, ISA);
const Kernels LEVIT_NAMED(kernels_, ISA) = {
    TILE_ROWS, PANEL, linear, conv, image, attention, pack, mean, multiply_adds,
};
} // namespace levit
