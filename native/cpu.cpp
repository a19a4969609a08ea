#include "cpu.h"

#include <string.h>

#include "isas.h" // by CMake: LEVIT_ISAS(X) is X(name) for each instruction set
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace levit {

#define LEVIT_DECLARE(name) extern const Kernels kernels_##name;
LEVIT_ISAS(LEVIT_DECLARE)

namespace {

#define LEVIT_ENTRY(name) {#name, &kernels_##name},
const Isa ISAS[] = {LEVIT_ISAS(LEVIT_ENTRY)};

#if defined(__x86_64__)
bool bit(uint32_t value, int number) { return value >> number & 1; }

// The CPU has the instructions, and the system keeps the registers: Intel's manual, volume 1,
// sections 14.3 and 15.2.
bool cpu_has(const char *name) {
  uint32_t a, b, c, d, b7 = 0, c7, d7, low, high;
  __cpuid(1, a, b, c, d);
  const bool keeps = bit(c, 27), fma = bit(c, 12);
  if (!strcmp(name, "portable")) return true;
  if (!keeps || !fma || __get_cpuid_max(0, nullptr) < 7) return false;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  __cpuid_count(7, 0, a, b7, c7, d7);
  const bool avx2 = (low & 0x6) == 0x6 && bit(b7, 5);
  if (!strcmp(name, "avx2")) return avx2;
  const bool f = bit(b7, 16), dq = bit(b7, 17), bw = bit(b7, 30), vl = bit(b7, 31);
  if (!strcmp(name, "avx512")) return avx2 && (low & 0xe6) == 0xe6 && f && dq && bw && vl;
  return false;
}
#else
bool cpu_has(const char *) { return true; } // every aarch64 has NEON
#endif

} // namespace

int isa_count() { return sizeof ISAS / sizeof *ISAS; }
const Isa &isa(int number) { return ISAS[number]; }
bool is_usable(int number) { return cpu_has(ISAS[number].name); }

} // namespace levit
