#include "memory.h"

#include <stdint.h>
#include <sys/mman.h>

namespace levit {

namespace {
constexpr size_t HUGE_PAGE = size_t(2) << 20, SMALL_PAGE = 4096;
}

bool Memory::allocate(size_t floats) {
  release();
  if (floats > SIZE_MAX / sizeof(float) - 2 * HUGE_PAGE) return false;
  size_t bytes = floats * sizeof(float);
  // Aligned so that the kernel can use huge pages: weights of 31 MB would else need 7,600 entries
  // of a TLB that has some 2,000.
  const size_t page = bytes >= HUGE_PAGE ? HUGE_PAGE : SMALL_PAGE;
  bytes = (bytes + SMALL_PAGE) / SMALL_PAGE * SMALL_PAGE;
  const size_t mapped = bytes + page;
  void *mapping = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return false;
  const uintptr_t start = ((uintptr_t)mapping + page - 1) / page * page;
  if (page == HUGE_PAGE) madvise((void *)start, bytes, MADV_HUGEPAGE);
  mapping_ = mapping, mapped_ = mapped, start_ = (float *)start;
  return true;
}

void Memory::release() {
  if (mapping_) munmap(mapping_, mapped_);
  mapping_ = nullptr, mapped_ = 0, start_ = nullptr;
}

} // namespace levit
