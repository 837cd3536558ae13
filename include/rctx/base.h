/*
 * rctx/base.h - version, attributes, and the rules every other header relies on.
 *
 * Vocabulary used in the contracts of all headers:
 *   borrowed     the library uses it during the call only
 *   transferred  it is the library's from now on, also when the call fails
 *   retained     the library keeps a reference or pointer until the stated moment
 *   any thread   no registration, no set-up, also threads the library has never seen
 *
 * Rules that hold everywhere and are not repeated at each function:
 *   - Time is int64_t nanoseconds of a monotonic clock (rctx_now()). Sums saturate: they never wrap into "expired".
 *   - Fallible calls return 0 or a negative errno; the thread's errno is left alone. Out-parameters come last and are
 *     written only on success.
 *   - cancel, end, unref and stop never fail and need no memory. (The first such call of a thread may set up its cache, and its
 *     first cancel of a tree its place in liburcu; if the memory for that can not be had, they do without.)
 *   - NULL where a context, key or node is expected: the compiler warns where it can see it. At run time a checked
 *     build (RCTX_CHECK) prints which argument of which function and aborts; a release build reports -EINVAL (a
 *     derivation returns a context that has already ended with -EINVAL) and does nothing else.
 *   - No function here may be called from a signal handler unless it says so.
 */
#ifndef RCTX_BASE_H
#define RCTX_BASE_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RCTX_VERSION_MAJOR 0
#define RCTX_VERSION_MINOR 1
#define RCTX_VERSION_PATCH 0
#define RCTX_VERSION_STRING "0.1.0"

#ifdef __cplusplus
#define RCTX_BEGIN_DECLS extern "C" {
#define RCTX_END_DECLS }
#else
#define RCTX_BEGIN_DECLS
#define RCTX_END_DECLS
#endif

#define RCTX_API __attribute__((visibility("default")))
#ifdef RCTX_BUILDING
#define RCTX_NONNULL(...)
#else
#define RCTX_NONNULL(...) __attribute__((nonnull(__VA_ARGS__)))
#endif
#define RCTX_MUST_CHECK __attribute__((warn_unused_result))

/* RCTX_DERIVES: a function that returns a handle to be ended. Each compiler is told in its own words. */
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11 && !defined(RCTX_BUILDING)
#define RCTX_DERIVES                                                                                                   \
  RCTX_MUST_CHECK                                                                                                      \
  __attribute__((returns_nonnull, malloc(rctx_end_cause, 1), malloc(rctx_drop, 1), malloc(rctx__end_scope, 1)))
#define RCTX__ENDS
#elif defined(__clang__) && !defined(RCTX_BUILDING)
#define RCTX_DERIVES RCTX_MUST_CHECK __attribute__((returns_nonnull, ownership_returns(malloc)))
#define RCTX__ENDS __attribute__((ownership_takes(malloc, 1)))
#else
#define RCTX_DERIVES RCTX_MUST_CHECK
#define RCTX__ENDS
#endif

RCTX_BEGIN_DECLS

/** Where something was done, for reports: made by macros of this library, one static record per line. */
struct rctx_site {
  const char *text;
  const char *file;
  int line;
};
#define RCTX__SITE(text_)                                                                                              \
  (__extension__({                                                                                                     \
    static const struct rctx_site rctx__here = {(text_), __FILE__, __LINE__};                                          \
    &rctx__here;                                                                                                       \
  }))

/** The one object: opaque. `rctx *` is the owner's handle and may cancel; `const rctx *` may look, wait and derive. */
typedef struct rctx rctx;
typedef struct rctx_manager rctx_manager;
typedef struct rctx_loop rctx_loop;

/** rctx_version_string - the version of the library that is linked, which may differ from RCTX_VERSION_STRING. */
RCTX_API const char *rctx_version_string(void);

/** rctx_strerror - a static text for an error this library returns: "context canceled", "context deadline exceeded",
 *  else the C library's description of the number. 0 gives "context is live". Any thread; never NULL. */
RCTX_API const char *rctx_strerror(int err);

RCTX_END_DECLS
#endif
