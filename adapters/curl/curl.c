/*
 * curl.c - see rctx/adapt/curl.h.
 *
 * Who ends a transfer on a multi handle. Everything happens on the driving thread, so plain fields suffice; the one thing that other
 * threads do, ending the context, is turned into a callback on this thread by rctx_watch().
 *
 *                        +-- message DONE: rctx_curl_finish() --> out of the multi, watch stopped --> on_end
 *   start --> running ---+-- rctx_curl_stop() ------------------> out of the multi, watch stopped
 *                        +-- drain: context_ended() --> at_rest() --> out of the multi ------------> on_end
 *                                                          \--> put off (inside a callback of libcurl) --> the same later
 *
 * The watch's node is part of the transfer, and on_end may free that. A node is still in use while its callback runs, so
 * context_ended() only asks for the notice that is the library's last act on it, and the work is done there, in at_rest().
 */
#include <rctx/adapt/curl.h>

#include <inttypes.h>
#include <limits.h>
#include <rctx/wait.h>
#include <stdio.h>

enum {
  LATER_MS = 100,  /* libcurl's limit behind the context's: more than a tick and the wakeup of who drives the clock */
  POLL_MS = 60000, /* as long as we like: the descriptors wake us */
  LOOK_MS = 10     /* without a descriptor for the context */
};
#define NS_PER_MS INT64_C(1000000)

/* ---- what a context means to libcurl ----------------------------------------------------------------------------- */

/* Of a context that has ended, or has no time left and will have ended within a tick. */
static CURLcode code_of(const rctx *ctx) {
  int err = rctx_err(ctx);
  return err == 0 || err == -ETIMEDOUT ? CURLE_OPERATION_TIMEDOUT : CURLE_ABORTED_BY_CALLBACK;
}

static void set_options(CURL *easy, int64_t left_ns) {
  long limit_ms = 0; /* none */
  if (left_ns / NS_PER_MS < INT_MAX - 2 * LATER_MS) limit_ms = (long)((left_ns + NS_PER_MS - 1) / NS_PER_MS) + LATER_MS;
  curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, limit_ms);
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
}

static void set_quick_exit(CURL *easy, long on) {
#if LIBCURL_VERSION_NUM >= 0x075700
  curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, on); /* an older libcurl at run time says that it does not know it */
#else
  (void)easy;
  (void)on;
#endif
}

/* False: we are inside a callback of this multi handle, and nothing was changed. */
static bool take_out(CURLM *multi, CURL *easy, bool finished) {
  if (!finished) set_quick_exit(easy, 1);
  CURLMcode rc = curl_multi_remove_handle(multi, easy);
  if (!finished) set_quick_exit(easy, 0);
  if (rc == CURLM_RECURSIVE_API_CALL) return false;
  curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, 0L);
  return true;
}

/* ---- one transfer, in the calling thread ------------------------------------------------------------------------- */

static CURLcode easy_code(CURLMcode rc) {
  switch (rc) {
  case CURLM_OUT_OF_MEMORY:
    return CURLE_OUT_OF_MEMORY;
  case CURLM_RECURSIVE_API_CALL:
    return CURLE_RECURSIVE_API_CALL;
  default:
    return CURLE_FAILED_INIT;
  }
}

static bool has_finished(CURLM *multi, const CURL *easy, CURLcode *result) {
  int left;
  for (CURLMsg *message; (message = curl_multi_info_read(multi, &left));) {
    if (message->msg != CURLMSG_DONE || message->easy_handle != easy) continue;
    *result = message->data.result;
    return true;
  }
  return false;
}

/* The context is looked at before libcurl gets to do anything more. */
static CURLcode drive(const rctx *ctx, CURL *easy, CURLM *multi, bool *finished) {
  int fd = rctx_fd(ctx), running;
  int pause_ms = fd >= 0 || fd == -ENOTSUP ? POLL_MS : LOOK_MS;
  struct curl_waitfd end = {.fd = fd, .events = CURL_WAIT_POLLIN};
  while (rctx_err(ctx) == 0) {
    CURLcode result;
    CURLMcode rc = curl_multi_perform(multi, &running);
    if (rc == CURLM_OK) {
      *finished = has_finished(multi, easy, &result);
      if (*finished) return result;
      rc = curl_multi_poll(multi, &end, fd >= 0, pause_ms, NULL);
    }
    if (rc != CURLM_OK) return easy_code(rc);
  }
  return code_of(ctx);
}

CURLcode rctx_curl_perform(const rctx *ctx, CURL *easy, CURLM *multi) {
  int64_t left_ns = rctx_remaining(ctx);
  if (left_ns <= 0) return code_of(ctx);
  CURLM *own = multi ? NULL : curl_multi_init();
  CURLM *driver = multi ? multi : own;
  if (!driver) return CURLE_OUT_OF_MEMORY;
  set_options(easy, left_ns);
  CURLMcode rc = curl_multi_add_handle(driver, easy);
  CURLcode result = easy_code(rc);
  if (rc == CURLM_OK) {
    bool finished = false;
    result = drive(ctx, easy, driver, &finished);
    take_out(driver, easy, finished);
  }
  if (own) curl_multi_cleanup(own);
  return result;
}

/* ---- transfers on a multi handle of the program's ---------------------------------------------------------------- */

static _Thread_local struct rctx_curl_transfer
    *put_off; /* ends noticed inside a callback of libcurl; hardly ever any */

static void forget_put_off(struct rctx_curl_transfer *transfer) {
  if (!transfer->rctx__put_off) return;
  struct rctx_curl_transfer **at = &put_off;
  while (*at != transfer) at = &(*at)->rctx__next;
  *at = transfer->rctx__next;
  transfer->rctx__put_off = false;
}

/* Out of the multi handle and of all lists; the reference on the context is the caller's now. */
static bool release(struct rctx_curl_transfer *transfer, bool finished) {
  if (!take_out(transfer->rctx__multi, transfer->easy, finished)) return false;
  rctx_after_stop(&transfer->rctx__watch); /* true, or it has run: this thread is the one that drains, so it is quiet */
  forget_put_off(transfer);
  transfer->rctx__running = false;
  return true;
}

static void report(struct rctx_curl_transfer *transfer, CURLcode result, bool by_context) {
  const rctx *ctx = transfer->ctx; /* the transfer may be gone when on_end returns */
  transfer->by_context = by_context;
  transfer->rctx__on_end(transfer, result);
  rctx_unref(ctx);
}

static size_t report_put_off(void) {
  size_t reported = 0;
  for (struct rctx_curl_transfer **at = &put_off; *at;) {
    struct rctx_curl_transfer *transfer = *at;
    if (release(transfer, false)) {
      report(transfer, code_of(transfer->ctx), true);
      reported++;
      at = &put_off; /* on_end may have changed the list */
    } else {
      at = &transfer->rctx__next;
    }
  }
  return reported;
}

/* The context has ended, and the library has let go of the node. */
static void at_rest(void *arg) {
  struct rctx_curl_transfer *transfer = arg;
  if (release(transfer, false)) {
    report(transfer, code_of(transfer->ctx), true);
    report_put_off();
  } else {
    transfer->rctx__put_off = true;
    transfer->rctx__next = put_off;
    put_off = transfer;
  }
}

static void context_ended(const rctx *ctx, void *arg) {
  struct rctx_curl_transfer *transfer = arg;
  bool quiet; /* false: this is its callback */
  (void)ctx;
  rctx_after_stop_notify(&transfer->rctx__watch, at_rest, transfer, &quiet);
}

static int errno_of(CURLMcode rc) {
  switch (rc) {
  case CURLM_OK:
    return 0;
  case CURLM_OUT_OF_MEMORY:
    return -ENOMEM;
  case CURLM_ADDED_ALREADY:
    return -EBUSY;
  case CURLM_RECURSIVE_API_CALL:
    return -EDEADLK;
  default:
    return -EINVAL;
  }
}

/* What is left, or why there is nothing: the context's error, or -ETIMEDOUT when it will have it within a tick. */
static int has_time(const rctx *ctx, int64_t *left_ns) {
  *left_ns = rctx_remaining(ctx);
  if (*left_ns > 0) return 0;
  int err = rctx_err(ctx);
  return err ? err : -ETIMEDOUT;
}

int rctx_curl_start(struct rctx_curl_transfer *transfer, const rctx *ctx, CURLM *multi, CURL *easy, rctx_loop *loop,
                    rctx_curl_end_fn on_end) {
  int64_t left_ns;
  if (!on_end) return -EINVAL;
  if (transfer->rctx__running) return -EBUSY;
  int err = has_time(ctx, &left_ns);
  if (err) return err;
  int watched = rctx_watch(ctx, &transfer->rctx__watch, loop, RCTX_ON_ENDED_TELL, context_ended, transfer);
  if (watched == RCTX_ENDED) return rctx_err(ctx);
  if (watched < 0) return watched;
  transfer->ctx = ctx;
  transfer->easy = easy;
  transfer->rctx__multi = multi;
  transfer->rctx__on_end = on_end;
  transfer->rctx__running = true;
  set_options(easy, left_ns);
  curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer);
  err = errno_of(curl_multi_add_handle(multi, easy));
  if (err) {
    rctx_after_stop(&transfer->rctx__watch);
    forget_put_off(transfer);
    transfer->rctx__running = false;
    return err;
  }
  rctx_ref(ctx);
  return 0;
}

int rctx_curl_stop(struct rctx_curl_transfer *transfer) {
  if (!transfer->rctx__running) return -EALREADY;
  if (!release(transfer, false)) return -EDEADLK;
  rctx_unref(transfer->ctx);
  return 0;
}

int rctx_curl_finish(struct rctx_curl_transfer *transfer, CURLcode result) {
  if (!transfer->rctx__running) return -EALREADY;
  if (!release(transfer, true)) return -EDEADLK;
  bool by_context = result == CURLE_OPERATION_TIMEDOUT && rctx_remaining(transfer->ctx) <= 0; /* our limit, too */
  report(transfer, result, by_context);
  return 0;
}

size_t rctx_curl_finish_done(CURLM *multi) {
  size_t reported = report_put_off();
  int left;
  for (CURLMsg *message; (message = curl_multi_info_read(multi, &left));) {
    struct rctx_curl_transfer *transfer = NULL;
    if (message->msg != CURLMSG_DONE) continue;
    curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&transfer);
    if (transfer && rctx_curl_finish(transfer, message->data.result) == 0) reported++;
  }
  return reported;
}

/* ---- telling the other side -------------------------------------------------------------------------------------- */

int rctx_curl_timeout_header(const rctx *ctx, int64_t reserve_ns, char *buf, size_t size) {
  int64_t left_ns;
  if (reserve_ns < 0) return -EINVAL;
  int err = has_time(ctx, &left_ns);
  if (err) return err;
  if (size == 0) return -ENOSPC;
  if (left_ns == INT64_MAX) {
    buf[0] = '\0';
    return 0;
  }
  int64_t tell_ms = left_ns > reserve_ns ? (left_ns - reserve_ns) / NS_PER_MS : 0;
  if (tell_ms == 0) return -ETIMEDOUT;
  char text[RCTX_CURL_TIMEOUT_HEADER_MAX];
  int length = snprintf(text, sizeof text, "x-request-timeout-ms: %" PRId64, tell_ms);
  if ((size_t)length >= size) return -ENOSPC;
  snprintf(buf, size, "%s", text);
  return length;
}
