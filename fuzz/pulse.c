// pulse.c - counts executions for fuzz/run.py, the same way under libFuzzer and AFL++: the linker turns the engine's calls of
// LLVMFuzzerTestOneInput into calls of __wrap_LLVMFuzzerTestOneInput. The count lies in the file that RCTX_FUZZ_PULSE names,
// mapped, so that it is there also after a crash and from the children of AFL++'s fork server.
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int __real_LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int __wrap_LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t unseen; // where nobody asked
static volatile uint64_t *pulse = &unseen;

__attribute__((constructor)) static void open_pulse(void) {
  const char *path = getenv("RCTX_FUZZ_PULSE");
  int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
  if (fd < 0) return;
  void *at = mmap(NULL, sizeof *pulse, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at != MAP_FAILED) pulse = at;
  close(fd);
}

int __wrap_LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  ++*pulse;
  return __real_LLVMFuzzerTestOneInput(data, size);
}
