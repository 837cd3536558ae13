/*
 * signal.c - contexts that end with a signal.
 *
 * The handler stamps the signal, raises the sequence and wakes the signal thread: stores and a system call, all safe in a handler.
 * Then it calls what the host had there. The thread compares the stamps with those it has dealt with and cancels, one at a
 * time, every live context that lists the signal and is older than the stamp.
 *
 *   with_signal: handler installed unless it is in place -> watch listed -> inline callback registered
 *   ended (cancel, signal, parent, deadline): an inline callback takes the watch off the list; the last for a signal puts back what
 *   was there, if our handler is still the one in place
 *
 * All but the stamps, the sequence and what the handler reads of the host's action is under the registry mutex (which fork
 * takes, too), system calls included. A watch lies in its context's arena; its registration keeps that until the watch is off
 * the list. The host's action is published before our handler is installed, and stays readable for handlers that still run.
 */
#define _GNU_SOURCE
#include "manager.h"
#include "probes.h"
#include "tree.h"

#include <rctx/after.h>
#include <rctx/signal.h>
#include <signal.h>
#include <stdarg.h>

enum { SIGNALS_MAX = 65, LIST_MAX = 64, HOSTS_MAX = 4 }; /* the kernel's are 1 to 64 */

struct watch {
  struct rctx_after after;     /* inline, on ctx */
  rctx *ctx;                   /* const */
  uint64_t set;                /* const: bit n - 1: signal n */
  uint32_t born;               /* const: the last stamp before it was listed */
  struct watch *next, **pprev; /* registry mutex */
};

/* A handler of the host's that ours has taken the place of. Our handler may still be at it when it is taken for another: what it needs
 * is one word, the function with three flags in bits that no address has. */
struct host {
  struct sigaction action;      /* registry mutex: to be put back */
  _Atomic uint64_t call;        /* atomic: 0: nothing to call */
  _Atomic uint32_t called_once; /* atomic; for SA_RESETHAND */
};
#define CALL_SIGINFO (UINT64_C(1) << 60)
#define CALL_ONCE (UINT64_C(1) << 61)
#define CALL_NODEFER (UINT64_C(1) << 62)
#define CALL_FUNCTION (CALL_SIGINFO - 1)

/* What was there before ours, oldest first. More than one: the host has put a handler over ours and we ours over that; it may
 * chain to ours, which then calls the older one. */
struct before {
  struct host hosts[HOSTS_MAX];
  _Atomic uint32_t depth; /* written under the registry mutex */
  unsigned watches;       /* registry mutex */
};

static struct watch *watches; /* registry mutex */
static struct before before[SIGNALS_MAX];
static _Atomic uint32_t stamps;               /* atomic: counts signals */
static _Atomic uint32_t last[SIGNALS_MAX];    /* atomic: stamp of the last one; only ever raised */
static uint32_t dealt_with[SIGNALS_MAX];      /* the thread's */
static _Atomic uint32_t sequence;             /* futex of the thread */
static _Atomic uint32_t thread_on;            /* written under the registry mutex */
static struct rctx_cause causes[SIGNALS_MAX]; /* registry mutex until filled, const then */
static char texts[SIGNALS_MAX][24];           /* as causes */

static uint64_t bit(int signal) { return UINT64_C(1) << (signal - 1); }

/* ---- the handler ------------------------------------------------------------------------------------------------- */

/* A call of our handler that has called the host's: on the stack, and gone from it with its frame. */
struct calling {
  uintptr_t mark; /* its own address, disguised: what is found where a frame was is not taken for one */
  uintptr_t frame;
  const void *context;
  unsigned nested;
};

static uintptr_t mark_of(const struct calling *calling) { return (uintptr_t)calling ^ (uintptr_t)0x5ca1ab1e0ddba11U; }

/* True if the host's handler has called ours, inside `outer`; false for another signal. A host may have left its handler by
 * siglongjmp(): then outer's frame is gone, and what is there now is above us, or is no mark. */
__attribute__((no_sanitize_address)) static bool is_chained(const struct calling *outer, const struct calling *here,
                                                            uint64_t call) {
  if (outer == NULL || here->frame >= outer->frame || outer->mark != mark_of(outer)) return false;
  if (call & CALL_SIGINFO) return here->context == outer->context; /* it hands on what it was given */
  return !(call & CALL_NODEFER);                                   /* the signal itself is blocked */
}

/* What of the host's to call for this signal. Chosen before the signal is stamped: after that its contexts may end, and what was
 * there before be put back. */
static uint64_t choose_host(int signal, const struct calling *outer, struct calling *here) {
  uint32_t depth = load_acquire(&before[signal].depth); /* partner: install_locked() */
  if (depth == 0) depth = 1; /* put back since the kernel has called us: it is the one that was */
  uint64_t call = load_relaxed(&before[signal].hosts[depth - 1].call); /* published by the depth */
  if (is_chained(outer, here, call)) here->nested = outer->nested + 1;
  if (here->nested >= depth) return 0;
  struct host *host = &before[signal].hosts[depth - 1 - here->nested];
  uint32_t no = 0;
  call = load_relaxed(&host->call);                                              /* as above */
  if ((call & CALL_ONCE) && !cas_relaxed(&host->called_once, &no, 1U)) return 0; /* only disputes who calls it */
  return call;
}

static void call_host(uint64_t call, int signal, siginfo_t *info, void *context) {
  uintptr_t function = (uintptr_t)(call & CALL_FUNCTION);
  if (call & CALL_SIGINFO) {
    ((void (*)(int, siginfo_t *, void *))function)(signal, info, context);
  } else {
    ((void (*)(int))function)(signal);
  }
}

/* AddressSanitizer must not look: a frame that is gone is read on purpose, and locals must lie in their frame. */
__attribute__((no_sanitize_address)) static void handler(int signal, siginfo_t *info, void *context) {
  THREAD_LOCAL struct calling *calling_here[SIGNALS_MAX]; /* the innermost of this thread */
  struct calling *outer = calling_here[signal];
  struct calling here = {0, (uintptr_t)__builtin_frame_address(0), context, 0};
  int saved = errno;
  uint64_t host = choose_host(signal, outer, &here);
  uint32_t stamp = add_relaxed(&stamps, 1U) + 1;
  uint32_t seen = load_relaxed(&last[signal]);                                       /* a guess: the CAS decides */
  while ((int32_t)(stamp - seen) > 0 && !cas_relaxed(&last[signal], &seen, stamp)) { /* published by the sequence */
  }
  add_seq_cst(&sequence, 1U); /* partner: the sequence the thread read before it looked at the stamps */
  rctx__futex_wake_all(&sequence);
  errno = saved;
  if (host == 0) return;
  here.mark = mark_of(&here);
  calling_here[signal] = &here;
  call_host(host, signal, info, context);
  here.mark = 0;
  calling_here[signal] = outer;
}

/* ---- the thread -------------------------------------------------------------------------------------------------- */

/* A live context that lists the signal, with a reference; NULL: none is left. */
static rctx *next_to_end(int signal, uint32_t stamp) {
  rctx *found = NULL;
  rctx__registry_lock();
  for (struct watch *watch = watches; watch && !found; watch = watch->next) {
    bool older = (watch->set & bit(signal)) && (int32_t)(stamp - watch->born) > 0;
    if (older && !rctx__done(load_relaxed(&watch->ctx->state)) && rctx__pin(watch->ctx)) /* a hint: cancel decides */
      found = watch->ctx; /* its registration keeps it until it is off the list */
    if (found) rctx__begin(found->manager, &found->manager->busy); /* quiesce waits for the hold that we have now */
  }
  rctx__registry_unlock();
  return found;
}

static void end_all(int signal, uint32_t stamp) {
  for (rctx *ctx; (ctx = next_to_end(signal, stamp));) {
    rctx_manager *manager = ctx->manager;
    PROBE_2(signal, ctx, signal);
    rctx_cancel_cause(ctx, &causes[signal]);
    rctx__drop(ctx);
    rctx__finished(&manager->busy);
  }
}

static void run(void *arg) {
  (void)arg;
  for (;;) {
    uint32_t seen = load_seq_cst(&sequence); /* partner: handler() */
    for (int signal = 1; signal < SIGNALS_MAX; signal++) {
      uint32_t stamp = load_relaxed(&last[signal]); /* published by the sequence */
      if (stamp == dealt_with[signal]) continue;
      dealt_with[signal] = stamp;
      end_all(signal, stamp);
    }
    rctx__futex_wait(&sequence, seen, RCTX__NEVER);
  }
}

static int thread_start_locked(void) {
  static struct rctx__thread thread;
  if (load_relaxed(&thread_on)) return 0; /* under the registry mutex */
  int rc = rctx__thread_start(&thread, "rctx-signal", run, NULL);
  if (rc == 0) store_relaxed(&thread_on, 1U); /* as above */
  return rc == 0 ? 0 : -EAGAIN;
}

/* In the child of a fork. One thread here. */
void rctx__signals_after_fork(void) {
  if (!load_relaxed(&thread_on)) return;
  store_relaxed(&thread_on, 0U); /* as above */
  for (int signal = 1; signal < SIGNALS_MAX; signal++)
    dealt_with[signal] = load_relaxed(&last[signal]); /* what came before the fork is the parent's */
  if (watches) thread_start_locked(); /* if it can not be had now, the next rctx_with_signal() tries again */
}

/* ---- installing and putting back --------------------------------------------------------------------------------- */

static bool ours(const struct sigaction *action) {
  return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == handler;
}

static uint64_t call_of(const struct sigaction *action) {
  bool with_info = action->sa_flags & SA_SIGINFO;
  uint64_t call = with_info ? (uintptr_t)action->sa_sigaction : (uintptr_t)action->sa_handler;
  return call | (with_info ? CALL_SIGINFO : 0) | (action->sa_flags & (int)SA_RESETHAND ? CALL_ONCE : 0) |
         (action->sa_flags & SA_NODEFER ? CALL_NODEFER : 0);
}

static int install_locked(int signal) {
  struct before *all = &before[signal];
  uint32_t depth = load_relaxed(&all->depth); /* written under the registry mutex */
  struct sigaction now = {.sa_flags = 0};
  if (sigaction(signal, NULL, &now) != 0) return -EINVAL;
  if (ours(&now)) return 0;         /* of another context; or left under a handler of the host's that is gone again */
  if (depth == HOSTS_MAX) return 0; /* a host that keeps putting handlers over ours: its last one is left alone */
  struct host *host = &all->hosts[depth];
  host->action = now;
  bool plain = !(now.sa_flags & SA_SIGINFO) && (now.sa_handler == SIG_DFL || now.sa_handler == SIG_IGN);
  store_relaxed(&host->call, plain ? 0 : call_of(&now)); /* published by the depth */
  store_relaxed(&host->called_once, 0U);                 /* as above */
  store_release(&all->depth, depth + 1);                 /* partner: handler() */
  struct sigaction action = {.sa_sigaction = handler, .sa_mask = now.sa_mask, .sa_flags = SA_SIGINFO};
  const int kept = SA_RESTART | SA_ONSTACK | SA_NODEFER | SA_NOCLDSTOP | SA_NOCLDWAIT;
  action.sa_flags |=
      plain ? SA_RESTART | SA_ONSTACK | (now.sa_flags & (SA_NOCLDSTOP | SA_NOCLDWAIT)) : now.sa_flags & kept;
  if (plain && now.sa_handler == SIG_IGN)
    action.sa_flags |= SA_NOCLDWAIT; /* children go on being reaped by themselves */
  if (plain) sigemptyset(&action.sa_mask);
  return sigaction(signal, &action, NULL) == 0 ? 0 : -EINVAL;
}

static void put_back_locked(int signal) {
  struct before *all = &before[signal];
  uint32_t depth = load_relaxed(&all->depth); /* written under the registry mutex */
  struct sigaction now;
  if (depth == 0 || sigaction(signal, NULL, &now) != 0 || !ours(&now)) return; /* the host has put its own there */
  struct host *host = &all->hosts[depth - 1];
  struct sigaction action = host->action;
  if ((action.sa_flags & (int)SA_RESETHAND) && load_relaxed(&host->called_once)) { /* it would have been reset by now */
    action.sa_flags = 0;
    action.sa_handler = SIG_DFL;
  }
  sigaction(signal, &action, NULL);
  store_release(&all->depth, depth - 1); /* partner: handler(), if one of the older hosts chains to it */
}

static void name_cause_locked(int signal) {
  struct rctx_cause *cause = &causes[signal];
  if (cause->text) return;
  const char *name = sigabbrev_np(signal);
  if (name) {
    snprintf(texts[signal], sizeof texts[signal], "SIG%s", name);
  } else {
    snprintf(texts[signal], sizeof texts[signal], "SIGRTMIN+%d", signal - SIGRTMIN);
  }
  *cause = (struct rctx_cause){
      .code = -ECANCELED, .origin = RCTX_ORIGIN_SIGNAL, .text = texts[signal], .user = (void *)(uintptr_t)signal};
}

/* Give up the signals of the set below `end`. */
static void release_signals_locked(uint64_t set, int end) {
  for (int signal = 1; signal < end; signal++) {
    if ((set & bit(signal)) && --before[signal].watches == 0) put_back_locked(signal);
  }
}

/* Install what is not installed. On an error nothing is left of the attempt. */
static int take_signals_locked(uint64_t set) {
  for (int signal = 1; signal < SIGNALS_MAX; signal++) {
    if (!(set & bit(signal))) continue;
    name_cause_locked(signal);
    int rc = install_locked(signal);
    if (rc != 0) {
      release_signals_locked(set, signal);
      return rc;
    }
    before[signal].watches++;
  }
  return 0;
}

/* ---- the contexts ------------------------------------------------------------------------------------------------ */

/* Inline, in the thread that ended the context. */
static void ended(const rctx *ctx, void *arg) {
  struct watch *watch = arg;
  (void)ctx;
  rctx__registry_lock();
  *watch->pprev = watch->next;
  if (watch->next) watch->next->pprev = watch->pprev;
  release_signals_locked(watch->set, SIGNALS_MAX);
  rctx__registry_unlock();
}

static int begin_watch(struct watch *watch) {
  rctx__registry_lock();
  int rc = thread_start_locked();
  watch->born = load_relaxed(&stamps); /* a signal that our handler gets from now on has a later one */
  if (rc == 0) rc = take_signals_locked(watch->set);
  if (rc == 0) {
    watch->next = watches;
    watch->pprev = &watches;
    if (watches) watches->pprev = &watch->next;
    watches = watch;
  }
  rctx__registry_unlock();
  return rc;
}

/* A context that has ended already, with this error. */
static rctx *refuse(rctx *ctx, int err) {
  rctx_end(ctx);
  return rctx__error_context(err);
}

static bool can_be_caught(int signal) {
  return signal > 0 && signal < SIGNALS_MAX && signal != SIGKILL && signal != SIGSTOP &&
         (signal < __SIGRTMIN || signal >= SIGRTMIN); /* between: the C library's own */
}

rctx *rctx_with_signals(const rctx *parent, const int *signals, size_t nsignals) {
  if (misused(parent == NULL, "parent is NULL (expected a context; a root is rctx_background())"))
    return rctx__error_context(-EINVAL);
  if (misused(signals == NULL && nsignals > 0, "signals is NULL")) return rctx__error_context(-EINVAL);
  uint64_t set = 0;
  for (size_t i = 0; i < nsignals; i++) {
    if (!can_be_caught(signals[i])) return rctx__error_context(-EINVAL);
    set |= bit(signals[i]);
  }
  if (set == 0) return rctx__error_context(-EINVAL);
  rctx *ctx = rctx_with_cancel(parent);
  if (rctx_err(ctx)) return ctx; /* there is nothing to wait for */
  struct watch *watch = rctx_alloc(ctx, sizeof *watch);
  if (watch == NULL) return refuse(ctx, -ENOMEM);
  *watch = (struct watch){.ctx = ctx, .set = set};
  int rc = begin_watch(watch);
  if (rc != 0) return refuse(ctx, rc);
  rctx_after_inline(ctx, &watch->after, RCTX_ON_ENDED_RUN, ended, watch); /* ended meanwhile: at once */
  return ctx;
}

rctx *rctx_with_signal(const rctx *parent, int signal, ...) {
  int list[LIST_MAX];
  size_t n = 0;
  va_list more;
  va_start(more, signal);
  for (; signal != 0 && n < LIST_MAX; signal = va_arg(more, int)) list[n++] = signal;
  va_end(more);
  if (misused(parent == NULL, "parent is NULL (expected a context; a root is rctx_background())"))
    return rctx__error_context(-EINVAL);
  return rctx_with_signals(parent, list, n);
}

int rctx_signal_of(const rctx *ctx) {
  struct rctx_why why;
  if (misused(ctx == NULL, "ctx is NULL (expected a context)")) return 0;
  if (rctx_why(ctx, &why) == 0 || why.cause < causes || why.cause >= causes + SIGNALS_MAX) return 0;
  return (int)(why.cause - causes);
}
