// Memory for weights and values: zeroed, on a page of its own, in huge pages where there are any.
#pragma once
#include <stddef.h>

namespace levit {

class Memory {
public:
  Memory() = default;
  Memory(const Memory &) = delete;
  Memory &operator=(const Memory &) = delete;
  ~Memory() { release(); }

  // False where there is no such memory; what was here before is gone either way.
  bool allocate(size_t floats);
  void release();
  float *floats() const { return start_; }

private:
  void *mapping_ = nullptr;
  size_t mapped_ = 0;
  float *start_ = nullptr;
};

} // namespace levit
