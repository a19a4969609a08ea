// AMX's instructions in plain C++, for tests where there are no tiles.
#pragma once
#include <stdint.h>
#include <string.h>

namespace {

struct EmulatedTile {
  int rows, bytes;
  alignas(64) char values[16][64];
};

thread_local EmulatedTile emulated[8];

[[maybe_unused]] void emulated_loadconfig(const void *config) {
  for (int i = 0; i < 8; i++) {
    uint16_t bytes;
    memcpy(&bytes, (const char *)config + 16 + 2 * i, 2);
    emulated[i].bytes = bytes;
    emulated[i].rows = ((const uint8_t *)config)[48 + i];
    memset(emulated[i].values, 0, sizeof emulated[i].values);
  }
}

[[maybe_unused]] void emulated_release() {
  for (EmulatedTile &tile : emulated) tile.rows = tile.bytes = 0;
}

[[maybe_unused]] void emulated_zero(int tile) {
  memset(emulated[tile].values, 0, sizeof emulated[tile].values);
}

[[maybe_unused]] void emulated_loadd(int tile, const void *from, int64_t stride) {
  emulated_zero(tile);
  for (int r = 0; r < emulated[tile].rows; r++) {
    memcpy(emulated[tile].values[r], (const char *)from + r * stride, (size_t)emulated[tile].bytes);
  }
}

[[maybe_unused]] void emulated_stored(int tile, void *to, int64_t stride) {
  for (int r = 0; r < emulated[tile].rows; r++) {
    memcpy((char *)to + r * stride, emulated[tile].values[r], (size_t)emulated[tile].bytes);
  }
}

// Each word of `sum` and the words that are multiplied for it, one after another.
template <class Word, class Multiply>
void emulated_dot(int sum, int left, int right, Multiply multiply) {
  EmulatedTile &c = emulated[sum];
  const EmulatedTile &a = emulated[left], &b = emulated[right];
  for (int m = 0; m < c.rows; m++) {
    for (int n = 0; n < c.bytes / 4; n++) {
      Word word;
      memcpy(&word, c.values[m] + 4 * n, 4);
      for (int k = 0; k < a.bytes / 4; k++) {
        word = multiply(word, a.values[m] + 4 * k, b.values[k] + 4 * n);
      }
      memcpy(c.values[m] + 4 * n, &word, 4);
    }
  }
}

[[maybe_unused]] void emulated_dpbusd(int sum, int left, int right) {
  emulated_dot<uint32_t>(sum, left, right, [](uint32_t word, const char *a, const char *b) {
    for (int i = 0; i < 4; i++) word += (uint32_t)((uint8_t)a[i] * (int8_t)b[i]);
    return word;
  });
}

[[maybe_unused]] void emulated_dpbf16ps(int sum, int left, int right) {
  const auto value = [](const char *half) {
    uint16_t bits;
    memcpy(&bits, half, 2);
    const uint32_t wide = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &wide, 4);
    return x;
  };
  emulated_dot<float>(sum, left, right, [&](float word, const char *a, const char *b) {
    for (int i = 0; i < 2; i++) word += value(a + 2 * i) * value(b + 2 * i);
    return word;
  });
}

} // namespace

#define LEVIT_TILE(operation) emulated_##operation
