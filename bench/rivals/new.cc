// operator new of the rivals in C++, led through the counted malloc(): jemalloc brings one of its own that goes past it.
#include <cstdlib>
#include <new>

void *operator new(std::size_t size) {
  void *memory = std::malloc(size > 0 ? size : 1);
  if (memory == nullptr) {
    throw std::bad_alloc();
  }
  return memory;
}

void *operator new(std::size_t size, std::align_val_t align) {
  void *memory = std::aligned_alloc(static_cast<std::size_t>(align), size);
  if (memory == nullptr) {
    throw std::bad_alloc();
  }
  return memory;
}

void operator delete(void *memory) noexcept { std::free(memory); }
void operator delete(void *memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void *memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void *memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
