// Compiled once for each instruction set and kind of numbers, with its flags, -DISA=name and
// -DNUMBERS=type. No function of the C++ library is called here: of those the linker keeps one copy
// for all, which may be an AVX-512 one.
#include "attention.h"
#include "image.h"
#include "linear.h"
#include "norm.h"
#include "patches.h"
#include "transpose.h"

namespace {

void pack(const float *weight, int64_t count, int64_t depth, int64_t first, int64_t columns,
          float *packed) {
  for (int64_t n = 0; n < count; n += 16) {
    const int64_t at = first + n, panel = at / PANEL * PANEL;
    const int64_t width = columns - panel < PANEL ? 16 : PANEL;
    const int64_t rows = count - n < 16 ? count - n : 16;
    const float *source = weight + n * depth;
    float *target = packed + panel * depth + (at - panel);
    int64_t k = 0;
    for (; k + 16 <= depth; k += 16) {
      transpose16(source + k, depth, rows, target + k * width, width);
    }
    for (; k < depth; k++) {
      for (int64_t r = 0; r < rows; r++) {
        memcpy(target + k * width + r, source + r * depth + k, sizeof(float));
      }
    }
  }
}

void mean(const float *source, int64_t rows, int64_t stride, levit::Range chunks,
          const Store &target) {
  const Vec share = splat(1.0f / (float)rows);
  for (int64_t c = chunks.begin; c < chunks.end; c++) {
    Vec sum[CHUNK];
    LEVIT_UNROLL for (int i = 0; i < CHUNK; i++) {
      sum[i] = Vec{};
      for (int64_t r = 0; r < rows; r++) sum[i] += load(source + r * stride + c * 16 + i * WIDTH);
      sum[i] *= share;
    }
    put(target, 0, c, sum);
  }
}

void convert(const float *source, levit::Range chunks, const Store &target) {
  for (int64_t c = chunks.begin; c < chunks.end; c++) {
    Vec x[CHUNK];
    LEVIT_UNROLL for (int i = 0; i < CHUNK; i++) x[i] = load(source + c * 16 + i * WIDTH);
    put(target, 0, c, x);
  }
}

#if defined(LEVIT_AMX)
void attention_in_tiles(const levit::AttentionWork &work, float *scratch) {
  if constexpr (ATTENTION_IN_TILES) {
    const Tiles tiles;
    attention(work, scratch);
  } else {
    attention(work, scratch);
  }
}

double multiply_adds(int64_t rounds) {
  const Tiles tiles;
  for (int64_t round = 0; round < rounds; round++) {
    LEVIT_DOT(0, 4, 6)
    LEVIT_DOT(1, 4, 7)
    LEVIT_DOT(2, 5, 6)
    LEVIT_DOT(3, 5, 7)
  }
  return (double)rounds * 4 * SIDE * SIDE * SIDE * EACH;
}
#else
constexpr auto attention_in_tiles = attention;

double multiply_adds(int64_t rounds) {
  constexpr int CHAINS = 12; // more than latency times units of any CPU, fewer than registers
  const float word = 1e-3f;
  Number::Sum sum[CHAINS];
  const Number::Left x = Number::broadcast((const char *)&word);
  const Vec y = pinned(splat(1.0f));
  LEVIT_UNROLL for (int i = 0; i < CHAINS; i++) sum[i] = Number::Sum{};
  for (int64_t round = 0; round < rounds; round++) {
    LEVIT_UNROLL for (int i = 0; i < CHAINS; i++) {
      sum[i] = Number::dot(sum[i], x, y);
      sum[i] = (Number::Sum)pinned((Vec)sum[i]); // or a compiler would find the sum beforehand
    }
  }
  LEVIT_UNROLL for (int i = 1; i < CHAINS; i++) sum[0] = added(sum[0], sum[i]);
  volatile float kept = ((Vec)sum[0])[0];
  (void)kept;
  return (double)rounds * CHAINS * WIDTH * EACH;
}
#endif

} // namespace

#define LEVIT_JOINED(a, b, c) a##b##_##c
#define LEVIT_NAMED(a, b, c) LEVIT_JOINED(a, b, c)

namespace levit {
extern const Kernels LEVIT_NAMED(kernels_, NUMBERS, ISA);
const Kernels LEVIT_NAMED(kernels_, NUMBERS, ISA) = {
    SHARED_ROWS, QUERIES, PANEL,   DEPTH_STEP,         Number::SIGNED_LEFT ? 128 : 0,
    linear,      conv,    image,   attention_in_tiles, pack,
    mean,        convert, patches, layer_norm,         multiply_adds,
};
} // namespace levit
