// Instruction sets that this library was built with, the best first, and whether the CPU has them.
#pragma once
#include "kernels.h"
#include "pixels.h"

namespace levit {

struct Isa {
  const char *name;
  const Kernels *kernels[LEVIT_DTYPES]; // null where it has no products of such numbers
  const PixelKernels *pixels;
};

int isa_count();
const Isa &isa(int number);
bool is_usable(int number);

} // namespace levit
