// Storms: a connection with 100,000 streams is cancelled, expires, is drained. Is the loop ever held longer than the slice it chose?
//
// Nothing is timed. Counted are contexts marked, callbacks run, and work: the atomic operations that the library does, which
// the linker's --wrap lets us count (each is preceded by the testing build's hook). "A slice of 100,000 streams costs what one
// of 2,000 does" is a number then, and the same in each run. Where a storm breaks on another thread, that thread is made to
// stand in the middle of it while the loop makes whole turns.
//
// What is promised, and what is not: docs/guide/slices.md.
#include "support/check.h"
#include "support/fake_time.h"
#include "support/threads.h"
#include "support/watchdog.h"

#include "core/platform.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>

static void open_storm(void) {
  watchdog(90);
  fake_open();
}

TestSuite(storm_slice, .init = open_storm, .fini = fake_close, .timeout = 120);

#if defined(__SANITIZE_THREAD__) || CHECK_LEAKS
enum { MANY = 20000 };
#else
enum { MANY = 100000 };
#endif
enum { FEW = 2048, SLICE = 256, TURNS_IN_THE_MIDDLE = 20 };

// ---- work --------------------------------------------------------------------------------------------------------------

static __thread uint64_t work;
void __wrap_rctx__chaos_yield(void);
void __wrap_rctx__chaos_yield(void) { work++; }

static void count_work(void) { atomic_store(&rctx__chaos_mask, 1); }

// ---- streams -----------------------------------------------------------------------------------------------------------

struct stream {
  rctx *ctx;
  struct rctx_after watch;
  int told;
  bool ended; // by its callback
};

static struct storm {
  int n;
  struct stream *streams;
  rctx *connection;
  rctx_loop *loop;
  int told;
  bool end_when_told; // as a server does: the stream is over when it is told
  bool elsewhere;     // it breaks on another thread
} storm;

static void on_end(const rctx *ctx, void *arg) {
  struct stream *stream = arg;
  cr_assert_neq(rctx_err(ctx), 0);
  stream->told++;
  storm.told++;
  if (!storm.end_when_told) return;
  stream->ended = true;
  rctx_end(stream->ctx);
}

static void watch_all(void) {
  for (int i = 0; i < storm.n; i++) {
    struct stream *stream = &storm.streams[i];
    cr_assert_eq(rctx_watch(stream->ctx, &stream->watch, storm.loop, RCTX_ON_ENDED_QUEUE, on_end, stream),
                 RCTX_REGISTERED);
  }
}

static void storm_with(rctx *connection, int n, rctx *(*derive)(const rctx *connection)) {
  storm = (struct storm){.n = n, .streams = calloc((size_t)n, sizeof *storm.streams), .connection = connection};
  cr_assert_eq(rctx_loop_create(&storm.loop), 0);
  for (int i = 0; i < n; i++) storm.streams[i].ctx = derive(connection);
  watch_all();
}

static rctx *plain(const rctx *connection) { return rctx_with_cancel(connection); }

static void storm_make(int n) { storm_with(rctx_with_cancel(fake_root()), n, plain); }

static int marked(void) {
  int n = 0;
  for (int i = 0; i < storm.n; i++) n += storm.streams[i].ended || rctx_err(storm.streams[i].ctx) != 0;
  return n;
}

static bool readable(void) {
  struct pollfd fd = {.fd = rctx_loop_fd(storm.loop), .events = POLLIN};
  return poll(&fd, 1, 0) == 1;
}

static void told_once(void) {
  cr_assert_not(readable());
  cr_assert_eq(rctx_loop_drain(storm.loop, SIZE_MAX), 0);
  for (int i = 0; i < storm.n; i++)
    cr_assert_eq(storm.streams[i].told, 1, "stream %d: %d times", i, storm.streams[i].told);
}

static void storm_end(void) {
  for (int i = 0; i < storm.n; i++) {
    if (!storm.streams[i].ended) rctx_end(storm.streams[i].ctx);
  }
  rctx_end(storm.connection);
  rctx_loop_destroy(storm.loop);
  free(storm.streams);
}

// ---- a loop and others on it -------------------------------------------------------------------------------------------

// Somebody else's request on the same loop: it ends between two turns, and has to hear of it soon.
static struct {
  rctx *ctx;
  struct rctx_after watch;
  bool waits;
  int turns_waited, longest_wait, served;
} other;

static void other_is_told(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  other.waits = false;
  other.served++;
}

static void other_ends(void) {
  if (other.waits) {
    other.turns_waited++;
    if (other.turns_waited > other.longest_wait) other.longest_wait = other.turns_waited;
    return;
  }
  if (other.ctx) rctx_end(other.ctx);
  other.ctx = rctx_with_cancel(fake_root());
  other.turns_waited = 0;
  other.waits = true;
  cr_assert_eq(rctx_watch(other.ctx, &other.watch, storm.loop, RCTX_ON_ENDED_QUEUE, other_is_told, NULL),
               RCTX_REGISTERED);
  rctx_cancel(other.ctx);
}

static void other_is_over(void) {
  while (other.waits) rctx_loop_drain(storm.loop, SLICE);
  if (other.ctx) rctx_end(other.ctx);
  other.ctx = NULL;
}

// One turn's drain. Returns the work that it was.
static uint64_t drain_a_slice(void) {
  int before = storm.told + other.served;
  bool was_readable = readable();
  work = 0;
  size_t ran = rctx_loop_drain(storm.loop, SLICE);
  uint64_t did = work;
  cr_assert_eq(storm.told + other.served - before, (int)ran);
  cr_assert_leq(ran, SLICE, "more callbacks in a turn than were asked for");
  cr_assert(was_readable || ran == 0 || storm.elsewhere, "the loop was not woken for what waited");
  return did;
}

static uint64_t max_of(uint64_t a, uint64_t b) { return a > b ? a : b; }

// ---- a cancel in slices ------------------------------------------------------------------------------------------------

static const struct rctx_cause lost = {-EPIPE, RCTX_ORIGIN_PEER, "connection lost", NULL, 0, NULL, NULL};

// The most work of a turn.
static uint64_t sweep_in_turns(int n, bool end_when_told) {
  struct rctx_sweep sweep;
  uint64_t most = 0;
  storm_make(n);
  storm.end_when_told = end_when_told;
  memset(&other, 0, sizeof other);
  count_work();
  cr_assert(rctx_cancel_begin(storm.connection, &lost, &sweep));
  cr_assert_eq(marked(), 0, "begin marks nothing below");
  int turns = 0, before = 0;
  for (bool more = true; more || storm.told < n; turns++) {
    work = 0;
    more = more && rctx_cancel_step(&sweep, SLICE);
    uint64_t did = work;
    int now = marked();
    cr_assert_leq(now - before, SLICE, "turn %d marked %d", turns, now - before);
    before = now;
    other_ends();
    most = max_of(most, did + drain_a_slice());
    cr_assert_leq(turns, n / SLICE + 4, "the storm does not end");
  }
  other_is_over();
  cr_assert_eq(marked(), n);
  cr_assert_geq(other.served, turns / 2, "others were served in %d of %d turns", other.served, turns);
  cr_assert_leq(other.longest_wait, 2, "somebody else waited %d turns", other.longest_wait);
  told_once();
  storm_end();
  return most;
}

static void a_turn_costs_the_same(bool end_when_told) {
  uint64_t few = sweep_in_turns(FEW, end_when_told), many = sweep_in_turns(MANY, end_when_told);
  cr_log_info("most work of a turn: %llu of %d streams, %llu of %d", (unsigned long long)few, FEW,
              (unsigned long long)many, MANY);
  cr_assert_gt(few, SLICE, "nothing was counted");
  cr_assert_leq(many, few + few / 10, "a turn's work grows with the streams: %llu, then %llu", (unsigned long long)few,
                (unsigned long long)many);
}

Test(storm_slice, a_cancel_in_slices_never_holds_the_loop) { a_turn_costs_the_same(false); }
Test(storm_slice, nor_when_each_stream_ends_in_its_callback) { a_turn_costs_the_same(true); }

// ---- expiry ------------------------------------------------------------------------------------------------------------

static rctx *due_together(const rctx *connection) { return rctx_with_timeout(connection, SECOND); }

// The most work of a turn of an embedder's loop: so many deadlines, so many callbacks.
static uint64_t expire_in_turns(int n) {
  uint64_t most = 0;
  storm_with(rctx_with_cancel(fake_root()), n, due_together);
  memset(&other, 0, sizeof other);
  fake_set(fake_now() + SECOND + FAKE_TICK);
  rctx_advance(fake.manager, fake_now(), SLICE); // the wheels turn to the moment first
  count_work();
  for (int turns = 0, before = marked(); storm.told < n; turns++) {
    work = 0;
    size_t handled = rctx_advance(fake.manager, fake_now(), SLICE);
    uint64_t did = work;
    int now = marked();
    cr_assert_leq(handled, SLICE);
    cr_assert_eq(now - before, (int)handled);
    before = now;
    other_ends();
    most = max_of(most, did + drain_a_slice());
    cr_assert_leq(turns, n / SLICE + 4, "the storm does not end");
  }
  other_is_over();
  cr_assert_leq(other.longest_wait, 3, "somebody else waited %d turns", other.longest_wait);
  told_once();
  storm_end();
  return most;
}

Test(storm_slice, deadlines_due_together_in_an_embedders_slices) {
  uint64_t few = expire_in_turns(FEW), many = expire_in_turns(MANY);
  cr_log_info("most work of a turn: %llu of %d deadlines, %llu of %d", (unsigned long long)few, FEW,
              (unsigned long long)many, MANY);
  cr_assert_leq(many, few + few / 10);
}

// Not promised: that a deadline with 100,000 below it is one of its slice is marked in slices. The callbacks are.
Test(storm_slice, one_deadline_with_many_below_marks_all_in_one_call_and_calls_back_in_slices) {
  storm_with(rctx_with_timeout(fake_root(), SECOND), MANY, plain);
  fake_set(fake_now() + SECOND + FAKE_TICK);
  cr_assert_eq(rctx_advance(fake.manager, fake_now(), 1), 1);
  cr_assert_eq(marked(), MANY);
  cr_assert_eq(storm.told, 0, "nothing of the loop's runs where a deadline is handled");
  while (storm.told < MANY) drain_a_slice();
  told_once();
  storm_end();
}

// ---- storms that break on other threads --------------------------------------------------------------------------------

// A callback in the middle of the storm, in the thread that ends: it stays there until the loop lets it go.
static struct {
  struct rctx_after after;
  pthread_t thread, loop;
  atomic_bool there, may_go;
} middle;

static void stand_in_the_middle(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  middle.thread = pthread_self();
  atomic_store(&middle.there, true);
  if (pthread_equal(middle.thread, middle.loop)) return; // where it must not be: it would wait for itself
  while (!atomic_load(&middle.may_go)) sched_yield();
}

static void put_somebody_in_the_middle(void) {
  middle.loop = pthread_self();
  atomic_store(&middle.there, false);
  atomic_store(&middle.may_go, false);
  storm.elsewhere = true;
  rctx_after_inline(storm.streams[storm.n / 2].ctx, &middle.after, RCTX_ON_ENDED_TELL, stand_in_the_middle, NULL);
}

// The loop goes on while the other thread stands there: it drains, begins and ends requests, of others and of this connection.
static void turn_while_it_stands(void) {
  while (!atomic_load(&middle.there)) sched_yield();
  cr_assert_not(pthread_equal(middle.thread, pthread_self()), "the storm broke on the loop's own thread");
  cr_assert_eq(marked(), storm.n, "first all are marked, then they are told");
  for (int turn = 0; turn < TURNS_IN_THE_MIDDLE; turn++) {
    drain_a_slice();
    rctx *of_others = rctx_with_cancel(rctx_background()), *too_late = rctx_with_cancel(storm.connection);
    cr_assert_eq(rctx_err(of_others), 0);
    cr_assert_neq(rctx_err(too_late), 0);
    rctx_end(too_late);
    rctx_end(of_others);
    struct stream *stream = &storm.streams[turn];
    if (rctx_after_stop(&stream->watch)) { // it is over before it was told
      stream->told++;
      storm.told++;
    }
  }
  cr_assert_gt(storm.told, 0);
  cr_assert(!atomic_load(&middle.may_go));
  atomic_store(&middle.may_go, true);
}

static void finish_and_end(void) {
  while (storm.told < storm.n) drain_a_slice();
  rctx_after_stop_sync(&middle.after);
  told_once();
  storm_end();
}

Test(storm_slice, a_deadline_of_the_librarys_thread_does_not_hold_the_loop) {
  rctx *connection = rctx_derive(rctx_background(), &(struct rctx_spec){.timeout_ns = 3600 * SECOND, .movable = true});
  storm_with(connection, MANY, plain);
  put_somebody_in_the_middle();
  int moved = rctx_move_deadline(connection, rctx_now() + 200 * MS); // more than we are away for here
  cr_assert_eq(moved, 0);
  turn_while_it_stands();
  finish_and_end();
}

static void *cancel_there(void *arg) {
  cr_assert(rctx_cancel_cause(arg, &lost));
  return NULL;
}

Test(storm_slice, a_cancel_of_another_thread_does_not_hold_the_loop) {
  pthread_t thread;
  storm_with(rctx_with_cancel(rctx_background()), MANY, plain);
  put_somebody_in_the_middle();
  cr_assert_eq(pthread_create(&thread, NULL, cancel_there, storm.connection), 0);
  turn_while_it_stands();
  cr_assert_eq(pthread_join(thread, NULL), 0);
  finish_and_end();
}

// ---- drains ------------------------------------------------------------------------------------------------------------

static rctx_drain *drain;

static rctx *request(const rctx *connection) {
  (void)connection;
  return rctx_drain_request(drain, NULL);
}

static void drain_storm_make(void) {
  rctx *above = rctx_with_cancel(rctx_background());
  cr_assert_eq(rctx_drain_create(above, "work", &drain), 0);
  storm_with(above, MANY, request);
}

static void *raise_there(void *arg) {
  cr_assert(rctx_drain_raise(arg, RCTX_DRAIN_CANCEL));
  return NULL;
}

// As the gateway does: the main thread drains, the loops serve.
Test(storm_slice, a_drain_of_another_thread_does_not_hold_the_loop) {
  pthread_t thread;
  drain_storm_make();
  put_somebody_in_the_middle();
  cr_assert_eq(pthread_create(&thread, NULL, raise_there, drain), 0);
  while (!atomic_load(&middle.there)) sched_yield();
  rctx *late = rctx_drain_request(drain, NULL);
  cr_assert_eq(rctx_err(late), -ECANCELED);
  rctx_end(late);
  for (int turn = 0; turn < TURNS_IN_THE_MIDDLE; turn++) drain_a_slice();
  cr_assert_gt(storm.told, 0);
  atomic_store(&middle.may_go, true);
  cr_assert_eq(pthread_join(thread, NULL), 0);
  finish_and_end();
  rctx_drain_destroy(drain);
}

// Not promised: slices of rctx_drain_raise() itself. On the loop's own thread all are marked in that call; callbacks still wait for
// their slices. A loop that can not afford it sweeps the drain's parent first: then there is nothing left to mark.
Test(storm_slice, a_drain_on_the_loops_thread_marks_all_at_once_unless_swept_before) {
  for (int swept = 0; swept < 2; swept++) {
    struct rctx_sweep sweep;
    drain_storm_make();
    rctx_drain_raise(drain, RCTX_DRAIN_STOP);
    if (swept) {
      cr_assert(rctx_cancel_begin(storm.connection, &lost, &sweep));
      for (bool more = true; more;) {
        int before = marked();
        more = rctx_cancel_step(&sweep, SLICE);
        cr_assert_leq(marked() - before, SLICE);
        drain_a_slice();
      }
    }
    cr_assert_eq(marked(), swept ? MANY : 0);
    int before = storm.told;
    rctx_drain_raise(drain, RCTX_DRAIN_CANCEL);
    cr_assert_eq(marked(), MANY);
    cr_assert_eq(storm.told, before, "no callback runs in a raise");
    finish_and_end();
    rctx_drain_destroy(drain);
  }
}

// ---- merges ------------------------------------------------------------------------------------------------------------

// Not promised: slices of what hangs below a merge that is tied to a stream. The step that marks the stream marks it all.
Test(storm_slice, a_merge_tied_to_a_stream_is_marked_whole_in_the_streams_step) {
  enum { BELOW = 5000 };
  struct rctx_sweep sweep;
  storm_make(FEW);
  rctx *session = rctx_with_cancel(fake_root());
  rctx *merge = rctx_merge_any((const rctx *[]){session, storm.streams[FEW / 2].ctx}, 2), *below[BELOW];
  for (int i = 0; i < BELOW; i++) below[i] = rctx_with_cancel(merge);
  cr_assert(rctx_cancel_begin(storm.connection, &lost, &sweep));
  int steps_that_marked_it = 0;
  for (bool more = true; more;) {
    int before = marked(), below_before = rctx_err(below[0]);
    more = rctx_cancel_step(&sweep, SLICE);
    cr_assert_leq(marked() - before, SLICE);
    steps_that_marked_it += rctx_err(below[0]) != below_before;
    for (int i = 0; i < BELOW; i++)
      cr_assert_eq(rctx_err(below[i]), rctx_err(below[0]), "part of the merge was marked");
    drain_a_slice();
  }
  cr_assert_eq(steps_that_marked_it, 1);
  cr_assert_eq(rctx_err(session), 0);
  for (int i = 0; i < BELOW; i++) rctx_end(below[i]);
  rctx_end(merge);
  rctx_end(session);
  finish_and_end();
}
