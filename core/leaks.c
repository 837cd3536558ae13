/*
 * leaks.c - which contexts exist, by the line of source that made them.
 *
 * A creation that is kept gets a record, found through the context's ext: so whoever releases the node finds it, and nobody
 * else pays. All records are in one list under one mutex; the list is read there, so a context in it exists: it is taken out before its
 * memory is given back.
 */
#define _GNU_SOURCE
#include "manager.h"
#include "tree.h"

#include <pthread.h>
#include <rctx/leaks.h>
#include <string.h>
#include <unistd.h>

struct rctx__record {
  struct rctx__record *next, **pprev; /* leaks_mutex */
  const struct rctx_site *site;       /* leaks_mutex */
  rctx *ctx;                          /* const */
  int64_t made_ns;                    /* const */
  bool handle_gone;                   /* leaks_mutex */
};

enum { SITES_MAX = 256 };

unsigned rctx__leaks_every;
static pthread_mutex_t leaks_mutex =
    PTHREAD_MUTEX_INITIALIZER;       /* a report holds it for longer than an rctx__lock may be */
static struct rctx__record *records; /* leaks_mutex */

void rctx__leaks_forget_lock(void) { leaks_mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER; } /* one thread here */
void rctx__leaks_take_lock(void) { pthread_mutex_lock(&leaks_mutex); }
void rctx__leaks_drop_lock(void) { pthread_mutex_unlock(&leaks_mutex); }

void rctx_leaks_start(unsigned sample_every) { __atomic_store_n(&rctx__leaks_every, sample_every, __ATOMIC_RELAXED); }

/* ---- a context's record ------------------------------------------------------------------------------------------ */

/* One in `every` on average, at irregular distances: lines that take turns are all seen. */
static bool sampled(void) {
  THREAD_LOCAL uint64_t random_state, left;
  uint64_t every = __atomic_load_n(&rctx__leaks_every, __ATOMIC_RELAXED);
  if (every == 0) return false;
  if (left > 1 && left < 2 * every) {
    left--;
    return false;
  }
  bool first = random_state == 0;
  if (first) random_state = (uint64_t)rctx__thread_self() ^ (uint64_t)rctx__monotonic_ns();
  random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  left = 1 + (random_state >> 33) % (2 * every - 1);
  return !first || left == 1;
}

COLD void rctx__leak_made(rctx *ctx, const struct rctx_site *site) {
  if (ctx == NULL || site == NULL || rctx__is_static(ctx)) return;
  struct rctx__ext *ext = load_relaxed(&ctx->ext); /* the handle has not been given away yet */
  if (ext && ext->record) {                        /* named by an inner call: the outer one is what the user wrote */
    pthread_mutex_lock(&leaks_mutex);
    ext->record->site = site;
    pthread_mutex_unlock(&leaks_mutex);
    return;
  }
  if (!sampled() || (ext = rctx__ext_get(ctx)) == NULL) return; /* no memory: this one is not watched */
  struct rctx__record *record = rctx__object_alloc(ctx->manager, CLASS_TASK);
  if (record == NULL) return;
  *record = (struct rctx__record){.site = site, .ctx = ctx, .made_ns = rctx__monotonic_ns()};
  ext->record = record;
  pthread_mutex_lock(&leaks_mutex);
  record->next = records;
  record->pprev = &records;
  if (records) records->pprev = &record->next;
  records = record;
  pthread_mutex_unlock(&leaks_mutex);
}

COLD void rctx__leak_handle_gone(struct rctx__ext *ext) {
  pthread_mutex_lock(&leaks_mutex);
  ext->record->handle_gone = true;
  pthread_mutex_unlock(&leaks_mutex);
}

void rctx__leak_gone(struct rctx__ext *ext) {
  struct rctx__record *record = ext->record;
  pthread_mutex_lock(&leaks_mutex);
  *record->pprev = record->next;
  if (record->next) record->next->pprev = record->pprev;
  pthread_mutex_unlock(&leaks_mutex);
  rctx__object_free(record->ctx->manager, CLASS_TASK, record);
}

/* ---- the report -------------------------------------------------------------------------------------------------- */

struct report {
  struct rctx_leak leaks[SITES_MAX];
  size_t count;
};

static const struct rctx_site others = {"(others)", "(others)", 0};

static struct rctx_leak *leak_for(struct report *report, const struct rctx_site *site) {
  for (size_t i = 0; i < report->count; i++) {
    struct rctx_leak *leak = &report->leaks[i];
    if (leak->line == site->line && strcmp(leak->file, site->file) == 0 && strcmp(leak->what, site->text) == 0)
      return leak;
  }
  if (report->count >= SITES_MAX - 1 && site != &others)
    return leak_for(report, &others); /* the last place is theirs */
  struct rctx_leak *leak = &report->leaks[report->count++];
  *leak = (struct rctx_leak){.file = site->file, .line = site->line, .what = site->text, .youngest_ns = INT64_MAX};
  return leak;
}

static void add_record(struct report *report, const struct rctx__record *record, int64_t age_ns) {
  struct rctx_leak *leak = leak_for(report, record->site);
  uint32_t s = load_relaxed(&record->ctx->state); /* a count of a moment */
  if (record->handle_gone) {
    leak->kept++;
  } else if (rctx__done(s)) {
    leak->ended++;
  } else {
    leak->live++;
  }
  if (age_ns > leak->oldest_ns) leak->oldest_ns = age_ns;
  if (age_ns < leak->youngest_ns) leak->youngest_ns = age_ns;
}

static size_t total(const struct rctx_leak *leak) { return leak->live + leak->ended + leak->kept; }

static int by_count(const void *a, const void *b) {
  size_t count_a = total(a), count_b = total(b);
  return count_a < count_b ? 1 : count_a > count_b ? -1 : 0;
}

static void collect(struct report *report, int64_t older_than_ns) {
  int64_t now_ns = rctx__monotonic_ns();
  report->count = 0;
  pthread_mutex_lock(&leaks_mutex);
  for (const struct rctx__record *record = records; record; record = record->next) {
    int64_t age_ns = now_ns > record->made_ns ? now_ns - record->made_ns : 0;
    if (age_ns >= older_than_ns) add_record(report, record, age_ns);
  }
  pthread_mutex_unlock(&leaks_mutex);
  unsigned every = __atomic_load_n(&rctx__leaks_every, __ATOMIC_RELAXED);
  for (size_t i = 0; i < report->count; i++) report->leaks[i].sample_every = every;
  qsort(report->leaks, report->count, sizeof *report->leaks, by_count);
}

size_t rctx_leaks_each(int64_t older_than_ns, bool (*fn)(const struct rctx_leak *leak, void *arg), void *arg) {
  if (misused(fn == NULL, "fn is NULL")) return 0;
  struct report report;
  collect(&report, older_than_ns);
  for (size_t i = 0; i < report.count && fn(&report.leaks[i], arg); i++) {
  }
  return report.count;
}

static void put(int fd, const char *text, size_t length) {
  while (length > 0) {
    ssize_t written = write(fd, text, length);
    if (written < 0 && errno != EINTR) return;
    if (written <= 0) continue;
    text += written;
    length -= (size_t)written;
  }
}

static bool print_leak(const struct rctx_leak *leak, void *arg) {
  char line[512];
  int n = snprintf(line, sizeof line, "rctx: leak: %s:%d: %s: %zu live, %zu ended, %zu kept; ages %.1f s to %.1f s",
                   leak->file, leak->line, leak->what, leak->live, leak->ended, leak->kept,
                   (double)leak->youngest_ns / 1e9, (double)leak->oldest_ns / 1e9);
  if (n > 0 && (size_t)n < sizeof line && leak->sample_every > 1)
    n += snprintf(line + n, sizeof line - (size_t)n, "; one in %u is kept", leak->sample_every);
  size_t length = n < 0 ? 0 : (size_t)n < sizeof line - 1 ? (size_t)n : sizeof line - 2;
  line[length++] = '\n';
  put(*(const int *)arg, line, length);
  return true;
}

size_t rctx_leaks_print(int fd, int64_t older_than_ns) {
  int saved = errno;
  size_t lines = rctx_leaks_each(older_than_ns, print_leak, &fd);
  errno = saved;
  return lines;
}

static void print_at_exit(void) { rctx_leaks_print(STDERR_FILENO, 0); }

void rctx_leaks_at_exit(void) {
  static _Atomic uint32_t asked;
  uint32_t no = 0;
  if (cas_relaxed(&asked, &no, 1U)) atexit(print_at_exit); /* only disputes who asks */
}
