#include "cpu.h"

#include <string.h>

// By CMake: LEVIT_KERNELS(X) is X(numbers, set) for each table of kernels, LEVIT_PIXELS(X) is
// X(set) for each of those for pictures, and LEVIT_ISAS(X) is X(name, tables of float32, bfloat16
// and uint8, that for pictures) for each instruction set.
#include "isas.h"
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <sys/auxv.h>
#endif

namespace levit {

#define LEVIT_DECLARE(numbers, set) extern const Kernels kernels_##numbers##_##set;
LEVIT_KERNELS(LEVIT_DECLARE)
#define LEVIT_DECLARE_PIXELS(set) extern const PixelKernels pixels_##set;
LEVIT_PIXELS(LEVIT_DECLARE_PIXELS)

namespace {

#define LEVIT_ENTRY(name, float32, bfloat16, uint8, pixels)                                        \
  {#name, {float32, bfloat16, uint8}, pixels},
const Isa ISAS[] = {LEVIT_ISAS(LEVIT_ENTRY)};

#if defined(__x86_64__)
// Linux's Documentation/arch/x86/xstate.rst.
[[maybe_unused]] constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;

bool bit(uint32_t value, int number) { return value >> number & 1; }

// The CPU has the instructions, and the system keeps the registers: Intel's manual, volume 1,
// sections 14.3 and 15.2.
bool cpu_has(const char *name) {
  if (!strcmp(name, "portable")) return true;
  uint32_t a, b, c, d, b7, c7, d7, low, high, a71 = 0;
  __cpuid(1, a, b, c, d);
  const bool keeps = bit(c, 27), fma = bit(c, 12);
  if (!keeps || !fma || __get_cpuid_max(0, nullptr) < 7) return false;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  __cpuid_count(7, 0, a, b7, c7, d7);
  if (a >= 1) __cpuid_count(7, 1, a71, b, c, d);
  const bool avx2 = (low & 0x6) == 0x6 && bit(b7, 5);
  const bool f = bit(b7, 16), dq = bit(b7, 17), bw = bit(b7, 30), vl = bit(b7, 31);
  const bool avx512 = avx2 && (low & 0xe6) == 0xe6 && f && dq && bw && vl;
  const bool vnni = avx512 && bit(c7, 11);
  if (!strcmp(name, "avx2")) return avx2;
  if (!strcmp(name, "avxvnni")) return avx2 && bit(a71, 4);
  if (!strcmp(name, "avx512")) return avx512;
  if (!strcmp(name, "avx512vnni")) return vnni;
  const bool bf16 = vnni && bit(a71, 5);
  if (!strcmp(name, "avx512bf16")) return bf16;
  if (!strcmp(name, "amx")) {
#if defined(LEVIT_EMULATE_AMX)
    return bf16;
#else
    // Tiles, int8 and bfloat16; registers that the system keeps, and lets this process have.
    const bool tiles = bit(d7, 24) && bit(d7, 25) && bit(d7, 22) && (low & 0x60000) == 0x60000;
    return bf16 && tiles && !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
#endif
  }
  return false;
}
#else
// Linux's arch/arm64/include/uapi/asm/hwcap.h.
bool cpu_has(const char *name) {
  const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  const bool dotprod = first >> 20 & 1, i8mm = second >> 13 & 1, bf16 = second >> 14 & 1;
  if (!strcmp(name, "neon")) return true; // every aarch64 has it
  if (!strcmp(name, "dotprod")) return dotprod;
  if (!strcmp(name, "bf16")) return dotprod && i8mm && bf16;
  return false;
}
#endif

} // namespace

int isa_count() { return sizeof ISAS / sizeof *ISAS; }
const Isa &isa(int number) { return ISAS[number]; }
bool is_usable(int number) { return cpu_has(ISAS[number].name); }

} // namespace levit
