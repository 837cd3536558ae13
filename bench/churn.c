/*
 * rctx-churn REQUESTS LIVE FILE: an hour of a server's traffic without the waiting. Two threads make and end REQUESTS requests
 * in all, LIVE of each thread alive at a time; what the process holds is sampled into FILE. bench/churn.py judges and draws it.
 *
 * A thread keeps its live requests in slots and replaces a random one each time, so that lifetimes are random (geometric,
 * LIVE on average). What a request is, how it ends, and whether the other thread ends it, is random, too:
 *
 *   call       by rctx_derive() with timeout and values, a call below it; ended inside out
 *   canceled   cancelled before it is ended
 *   hasty      with a timeout of some milliseconds, which as a rule ends it first
 *   session    eight contexts below it, some with deadlines and values; cancelled from above as one
 *   layered    a chain of values, as middleware makes it
 *
 * The load: full from the start (the first fifth is warm-up), a 32nd of it for the last 30 % of the requests, then nothing. A
 * housekeeper, as a server has one, calls rctx_trim() with each sample.
 */
#include <errno.h>
#include <pthread.h>
#include <rctx/rctx.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define MILLISECOND INT64_C(1000000)
#define SECOND (1000 * MILLISECOND)

enum {
  THREADS = 2,
  BELOW = 8,
  HANDOFFS = 256,
  SAMPLES = 400,
  LOW_SHARE = 32,
  WARM_PERCENT = 20,
  LOW_PERCENT = 70,
  BLOCK = 250
};

/* What servers set: pages are given back within a second, not ten, and by a thread of jemalloc's own. */
extern const char *malloc_conf;
const char *malloc_conf = "background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0";

RCTX_KEY(trace_id, const char *)
RCTX_KEY(user_id, const char *)
RCTX_KEY(tenant, uint32_t)

struct request {
  rctx *top;
  rctx *below[BELOW]; /* in the order they were made; each hangs below top or one before it */
  unsigned count;
  bool cancel; /* before it is ended */
};

struct worker {
  pthread_t thread;
  uint64_t random;
  size_t live;
  struct request *slots;
  _Atomic size_t done; /* the sampler reads these */
  _Atomic size_t contexts;
  _Atomic size_t timed_out;
};

static rctx *server;
static size_t requests_all;
static _Atomic size_t requests_begun; /* both threads take BLOCK at a time: the load falls for both at once */
static _Atomic(struct request *) handed_over[HANDOFFS]; /* who puts one in takes the former one out, and ends it */

static void *memory(size_t count, size_t size) {
  void *block = calloc(count, size);
  if (block == NULL) {
    fputs("rctx-churn: out of memory\n", stderr);
    exit(1);
  }
  return block;
}

static uint64_t next_random(struct worker *worker) {
  uint64_t x = worker->random;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return worker->random = x;
}

static size_t below(struct worker *worker, size_t limit) { return (size_t)((next_random(worker) >> 11) % limit); }

static void count(_Atomic size_t *counter, size_t more) {
  atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + more, memory_order_relaxed);
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

static void make_call(struct request *request) {
  const struct rctx_value values[] = {trace_id_value("4bf92f3577b34da6a3ce929d0e0e4736"), tenant_value(7)};
  request->top = rctx_derive(server, &(struct rctx_spec){
                                         .timeout_ns = 30 * SECOND,
                                         .values = values,
                                         .nvalues = sizeof values / sizeof *values,
                                         .name = "call",
                                     });
  request->below[request->count++] = rctx_with_cancel(request->top);
}

static void make_session(struct request *request, struct worker *worker) {
  request->top = rctx_with_cancel(server);
  const rctx *parent = request->top;
  while (request->count < BELOW) {
    rctx *child;
    switch (below(worker, 3)) {
    case 0:
      child = rctx_with_timeout(parent, (1 + (int64_t)below(worker, 60)) * SECOND);
      break;
    case 1:
      child = user_id_with(parent, "ann");
      break;
    default:
      child = rctx_with_cancel(parent);
      break;
    }
    request->below[request->count++] = child;
    parent = below(worker, 2) ? child : request->top;
  }
  request->cancel = true;
}

static void make_layered(struct request *request) {
  request->top = rctx_with_cancel(server);
  rctx *traced = trace_id_with(request->top, "4bf92f3577b34da6a3ce929d0e0e4736");
  rctx *known = user_id_with(traced, "ann");
  request->below[request->count++] = traced;
  request->below[request->count++] = known;
  request->below[request->count++] = tenant_with(known, 7);
}

static void make(struct request *request, struct worker *worker) {
  *request = (struct request){0};
  switch (below(worker, 10)) {
  case 0:
    make_session(request, worker);
    break;
  case 1:
    request->top = rctx_with_timeout(server, MILLISECOND * (int64_t)(1 + below(worker, 10)));
    break;
  case 2:
  case 3:
    request->top = rctx_with_cancel(server);
    request->cancel = true;
    break;
  case 4:
  case 5:
    make_layered(request);
    break;
  default:
    make_call(request);
    break;
  }
  count(&worker->contexts, 1 + request->count);
}

static void end(struct request *request, struct worker *worker) {
  if (rctx_err(request->top) == -ETIMEDOUT) {
    count(&worker->timed_out, 1);
  }
  if (request->cancel) {
    rctx_cancel(request->top);
  }
  while (request->count > 0) {
    rctx_end(request->below[--request->count]);
  }
  rctx_end(request->top);
  request->top = NULL;
}

/* Ends a request here, or leaves it to whoever passes next and ends the one that was left before. */
static void end_somewhere(struct request *request, struct worker *worker) {
  if (below(worker, 8) != 0) {
    end(request, worker);
    return;
  }
  struct request *left = memory(1, sizeof *left);
  *left = *request;
  struct request *former = atomic_exchange_explicit(&handed_over[below(worker, HANDOFFS)], left, memory_order_acq_rel);
  if (former) {
    end(former, worker);
    free(former);
  }
}

static void end_slots(struct worker *worker, size_t from, size_t to) {
  for (size_t i = from; i < to; i++) {
    if (worker->slots[i].top) end_somewhere(&worker->slots[i], worker);
  }
}

static void *work(void *self) {
  struct worker *worker = self;
  size_t live = worker->live, few = live / LOW_SHARE;
  for (;;) {
    size_t begun = atomic_fetch_add_explicit(&requests_begun, BLOCK, memory_order_relaxed);
    if (begun >= requests_all) break;
    if (live > few && begun >= requests_all / 100 * LOW_PERCENT) {
      end_slots(worker, few, live);
      live = few;
    }
    for (int i = 0; i < BLOCK; i++) {
      struct request *slot = &worker->slots[below(worker, live)];
      if (slot->top) end_somewhere(slot, worker);
      make(slot, worker);
    }
    count(&worker->done, BLOCK);
  }
  end_slots(worker, 0, live);
  return NULL;
}

/* ---- sampling ---------------------------------------------------------------------------------------------------- */

static size_t resident_bytes(void) {
  size_t total = 0, pages = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  if (file == NULL || fscanf(file, "%zu %zu", &total, &pages) != 2) {
    fputs("rctx-churn: can not read /proc/self/statm\n", stderr);
    exit(1);
  }
  fclose(file);
  return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void sample(FILE *file, const char *phase, size_t done, int64_t start_ns) {
  struct rctx_stats stats;
  rctx_stats(rctx_manager_default(), &stats);
  fprintf(file, "%s\t%zu\t%.3f\t%zu\t%zu\t%zu\t%zu\n", phase, done, (double)(rctx_now() - start_ns) / SECOND,
          resident_bytes(), stats.bytes, stats.contexts, stats.timers);
}

static size_t sum(struct worker *workers, size_t offset) {
  size_t total = 0;
  for (unsigned t = 0; t < THREADS; t++) {
    total += atomic_load_explicit((_Atomic size_t *)(void *)((char *)&workers[t] + offset), memory_order_relaxed);
  }
  return total;
}

static const char *phase_of(size_t percent) {
  return percent < WARM_PERCENT ? "warm-up" : percent < LOW_PERCENT ? "full" : "low";
}

static void watch(struct worker *workers, FILE *file, int64_t start_ns) {
  const struct timespec pause = {.tv_nsec = MILLISECOND};
  size_t sampled = 0, told = 0;
  for (size_t done = 0; done < requests_all;) {
    nanosleep(&pause, NULL);
    done = sum(workers, offsetof(struct worker, done));
    if (done * SAMPLES / requests_all == sampled) continue;
    sampled = done * SAMPLES / requests_all;
    size_t percent = done * 100 / requests_all;
    rctx_trim(rctx_manager_default());
    sample(file, phase_of(percent), done, start_ns);
    if (percent / 5 != told) {
      told = percent / 5;
      fprintf(stderr, "%3zu %%: %zu requests, %zu MB resident\n", percent, done, resident_bytes() / 1000000);
    }
  }
}

/* All is over: until the allocator has given back what it will, which it does bit by bit. */
static void settle(FILE *file, int64_t start_ns) {
  const struct timespec pause = {.tv_nsec = 100 * MILLISECOND};
  size_t last = 0;
  rctx_quiesce(rctx_manager_default(), rctx_now() + 10 * SECOND);
  for (int n = 0, same = 0; n < 150 && same < 20; n++) {
    rctx_trim(rctx_manager_default());
    sample(file, "idle", requests_all, start_ns);
    nanosleep(&pause, NULL);
    size_t now = resident_bytes();
    same = now == last ? same + 1 : 0;
    last = now;
  }
}

static void end_left_over(struct worker *worker) {
  for (unsigned i = 0; i < HANDOFFS; i++) {
    struct request *left = atomic_exchange_explicit(&handed_over[i], NULL, memory_order_acq_rel);
    if (left) end(left, worker);
    free(left);
  }
}

static void churn(size_t requests, size_t live, FILE *file) {
  requests_all = requests / BLOCK * BLOCK;
  static struct worker workers[THREADS];
  server = rctx_with_cancel(rctx_background());
  rctx_end(rctx_with_timeout(server, SECOND)); /* the timer thread is no request's */
  int64_t start_ns = rctx_now();
  for (unsigned t = 0; t < THREADS; t++) {
    workers[t].random = 88172645463325252U + t;
    workers[t].live = live;
    workers[t].slots = memory(live, sizeof *workers[t].slots);
  }
  sample(file, "start", 0, start_ns);
  for (unsigned t = 0; t < THREADS; t++) {
    if (pthread_create(&workers[t].thread, NULL, work, &workers[t]) != 0) {
      fputs("rctx-churn: can not start a thread\n", stderr);
      exit(1);
    }
  }
  watch(workers, file, start_ns);
  for (unsigned t = 0; t < THREADS; t++) {
    pthread_join(workers[t].thread, NULL);
  }
  int64_t took_ns = rctx_now() - start_ns;
  end_left_over(&workers[0]);
  for (unsigned t = 0; t < THREADS; t++) {
    free(workers[t].slots);
  }
  rctx_end(server);
  fprintf(file, "# %zu contexts, %zu requests timed out, %.1f s\n", sum(workers, offsetof(struct worker, contexts)),
          sum(workers, offsetof(struct worker, timed_out)), (double)took_ns / SECOND);
  settle(file, start_ns);
}

int main(int argc, char **argv) {
  size_t requests = argc == 4 ? strtoul(argv[1], NULL, 10) : 0, live = argc == 4 ? strtoul(argv[2], NULL, 10) : 0;
  FILE *file = requests >= 1000 && live >= LOW_SHARE ? fopen(argv[3], "w") : NULL;
  if (file == NULL) {
    fputs("usage: rctx-churn REQUESTS LIVE FILE (at least 1000 requests, 32 alive; bench/churn.py does it)\n", stderr);
    return 2;
  }
  fputs("phase\trequests\tseconds\tresident_bytes\trctx_bytes\tcontexts\ttimers\n", file);
  churn(requests, live, file);
  return fclose(file) == 0 ? 0 : 1;
}
