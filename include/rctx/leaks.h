/*
 * rctx/leaks.h - contexts that were never ended: who made them, and how long ago.
 *
 * At compile time: every function that derives is annotated, so that gcc -fanalyzer, and clang --analyze with
 * unix.DynamicMemoryModeling:Optimistic=true, report a handle that is never ended (docs/guide/ending.md).
 *
 * At run time: compile your own code with -DRCTX_LEAK_SITES and call rctx_leaks_start(). Each derivation in such a file then
 * tells its file and line to the library, which keeps one in `sample_every` of them until the context is gone. Without the
 * macro nothing is compiled in; with it and without rctx_leaks_start() a derivation costs one load more.
 * A typed key's name_with() counts as the line that declares the key; RCTX_LEAK_SITE(ctx) names another line.
 */
#ifndef RCTX_LEAKS_H
#define RCTX_LEAKS_H

#include <rctx/context.h>

RCTX_BEGIN_DECLS

/** rctx_leaks_start - keep one in @sample_every creations from now on (1: all; 0: none, as before the first call). Those
 *  kept already stay. Cost of one that is kept: a block of 512 bytes and a short lock, at its birth and at its end. */
RCTX_API void rctx_leaks_start(unsigned sample_every);

/** struct rctx_leak - the contexts of one line of source that exist now. */
struct rctx_leak {
  const char *file;
  int line;
  const char *what; /* the function that was called */
  size_t live;      /* context live, handle not given back */
  size_t ended;     /* it has ended (deadline, parent), handle not given back */
  size_t kept;      /* handle given back; kept by what hangs below, a reference, or values taken from it */
  int64_t oldest_ns, youngest_ns; /* ages by CLOCK_MONOTONIC */
  unsigned sample_every;          /* each stands for so many, by the setting of now */
};

/** rctx_leaks_each - call fn for each line, most contexts first, until it returns false. Returns how many lines there
 *  are. @older_than_ns: leave out what is younger. fn is called with no lock held. Up to 255 lines are told apart; the rest is
 *  summed as file "(others)". */
RCTX_API size_t rctx_leaks_each(int64_t older_than_ns, bool (*fn)(const struct rctx_leak *leak, void *arg), void *arg)
    RCTX_NONNULL(2);

/** rctx_leaks_print - the report as text to a descriptor, one line each; nothing when there is none:
 *    rctx: leak: src/handler.c:42: rctx_with_timeout: 3 live, 1 ended, 0 kept; ages 1.2 s to 40.1 s
 *  Returns how many lines of source were reported. */
RCTX_API size_t rctx_leaks_print(int fd, int64_t older_than_ns);

/** rctx_leaks_at_exit - print the report to standard error when the process ends by exit(). */
RCTX_API void rctx_leaks_at_exit(void);

RCTX_END_DECLS
#endif
