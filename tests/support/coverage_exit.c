// coverage_exit.c - in builds that measure coverage, what a process did counts also when it ends by _exit() or abort(), as the
// children of forks and the tests of misuse do. Linked with --wrap for both.
#include <unistd.h>

#if defined(RCTX_MCDC)
int __llvm_profile_write_file(void);
static void dump(void) { (void)__llvm_profile_write_file(); }
#else
void __gcov_dump(void);
static void dump(void) { __gcov_dump(); }
#endif

_Noreturn void __real__exit(int code);
_Noreturn void __wrap__exit(int code);
_Noreturn void __real_abort(void);
_Noreturn void __wrap_abort(void);

_Noreturn void __wrap__exit(int code) {
  dump();
  __real__exit(code);
}

_Noreturn void __wrap_abort(void) {
  dump();
  __real_abort();
}
