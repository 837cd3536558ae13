// faults.h - what a program asks of the C library and the kernel, counted, and refused on request.
//
// The linker puts these in place of the real calls (--wrap, see rctx_faulty_test() in CMakeLists.txt) in everything that is
// linked into the test program: the library's testing build and the test itself, not in shared libraries.
//
//   faults_arm(FAULT_MEMORY, 3, false, ENOMEM);    // the third request from now is refused, and only that
//   ... calls ...
//   struct faults_seen seen = faults_disarm();
//
// faults_open() is what was asked for and not given back. Thread-safe: requests of all threads are counted together.
#ifndef RCTX_TESTS_FAULTS_H
#define RCTX_TESTS_FAULTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum faults_kind {
  FAULT_MEMORY,   // malloc, calloc, realloc, posix_memalign, aligned_alloc, mallocx: NULL
  FAULT_MAP,      // mmap
  FAULT_EVENTFD,  // eventfd
  FAULT_THREAD,   // pthread_create
  FAULT_KEY,      // pthread_key_create
  FAULT_SPECIFIC, // pthread_setspecific
  FAULT_ATFORK,   // pthread_atfork
  FAULT_WRITE,    // write
  FAULT_READ,     // read
  FAULT_FUTEX,    // futex wait: the error, at once; FAULTS_SPURIOUS: returns 0 at once
  FAULT_POLL,     // poll, ppoll
  FAULTS
};

enum { FAULTS_SPURIOUS = -1 };

struct faults_seen {
  uint64_t requests; // since faults_arm(), with those refused
  uint64_t refused;
};

// Refuse the nth request of this kind from now; on: all that follow, too. error: the errno. nth 0: only count.
void faults_arm(enum faults_kind kind, uint64_t nth, bool on, int error);
struct faults_seen faults_disarm(void);

// Given out and not yet given back.
struct faults_open {
  int64_t pieces; // of memory
  int64_t maps;
  int64_t eventfds;
  int64_t threads; // created and not joined
};
struct faults_open faults_open(void);

// Waits until that is what is open, for ten seconds: a thread gives its start's memory back when it runs.
bool faults_open_is(struct faults_open expected);

// Added to CLOCK_MONOTONIC. 0: the truth.
void faults_clock(int64_t offset_ns);

#endif
