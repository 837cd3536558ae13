/*
 * rctx/adapt/curl.h - libcurl transfers that end with a context.
 *
 * libcurl has no way to end a transfer from another thread: curl_easy_perform() asks its progress callback about once a second,
 * and a handle that is touched from a second thread is a data race. Here a context is what ends it: at its deadline, or when it
 * or an ancestor is cancelled by whichever thread, and at once.
 *
 *   rctx_curl_perform()   one transfer, in the calling thread: curl_easy_perform() with a context
 *   rctx_curl_start()     any number of transfers on a multi handle that the program drives itself, with an rctx_loop beside it
 *
 * Link with rctx::curl (CMake) or rctx-curl (pkg-config); libcurl 7.66 or newer. Guide: docs/guide/http-clients.md.
 *
 * What the adapter does to an easy handle. All other options stay the caller's:
 *   CURLOPT_TIMEOUT_MS   is set at each start to the time that is left, and to 0 (no limit) when the transfer is over: a handle
 *                        that is used again does not inherit the rest of an old budget. libcurl divides what it is told among
 *                        the addresses of a host, so a dead first address does not eat all of it. It is told a little more
 *                        (100 ms) than there is: the context decides, libcurl is the second line of defence. For a limit of
 *                        your own derive a context with a timeout.
 *   CURLOPT_NOSIGNAL     is set to 1 and left so: libcurl's alarm would hit other threads. libcurl then leaves SIGPIPE alone, so
 *                        a program that uses TLS ignores that signal itself.
 *   CURLOPT_QUICK_EXIT   is 1 while an unfinished transfer is taken out, and 0 after that (libcurl 7.87 or newer). Without it
 *                        libcurl's resolver thread is waited for, as long as getaddrinfo() likes; with it that thread is
 *                        left to finish alone. Older ones wait: build them with c-ares if names may be slow to resolve.
 *   CURLOPT_PRIVATE      rctx_curl_start() only: points to the transfer. The caller's own data is found from there, since the
 *                        transfer is a member of it.
 *   CURLOPT_CONNECTTIMEOUT_MS is not touched: libcurl takes the smaller of the two by itself, and it may well be set to less than
 *                        the budget, to try another server in time.
 *
 * Promises cited below:
 *   [CURL-1] A transfer that rctx_curl_start() has started is over exactly once: on_end is called, or a stop returns 0; one of
 *            the two. on_end says which of its two reasons it has: finished, or ended by its context.
 *   [CURL-2] libcurl's handles are touched only by the thread that drives the multi handle, in the functions below and in
 *            rctx_loop_drain(), whichever thread ends the context; and never inside a callback of this multi handle.
 *   [CURL-3] When on_end is called, and when a stop has returned 0, the storage of the transfer is quiet: it may be freed or
 *            started again. The easy handle is in no multi handle any more.
 *   [CURL-4] Nothing is started for a context that has ended or has no time left: no connection is made.
 *   [CURL-5] The connection of an unfinished transfer is closed (HTTP/2: its stream is reset), so the server learns of the end.
 */
#ifndef RCTX_ADAPT_CURL_H
#define RCTX_ADAPT_CURL_H

#include <curl/curl.h>
#include <rctx/after.h>

RCTX_BEGIN_DECLS

/**
 * rctx_curl_perform - curl_easy_perform() that also ends with the context, at once.
 *
 * @ctx:   borrowed.
 * @easy:  borrowed, in no multi handle, with its options set (see above for those that are set here).
 * @multi: borrowed: drives the transfer and keeps its connection for the next call. No other transfers are in it meanwhile. NULL:
 *         one is made for this call, and the connection is closed at the end.
 *
 * Returns: libcurl's code. If the context ended it: CURLE_OPERATION_TIMEDOUT if rctx_err() is -ETIMEDOUT, else
 *          CURLE_ABORTED_BY_CALLBACK; rctx_why() tells who and where. A result that is there when the end is noticed wins.
 *          CURLE_OPERATION_TIMEDOUT while rctx_err() is 0: a limit that is not the context's (CURLOPT_CONNECTTIMEOUT_MS,
 *          CURLOPT_LOW_SPEED_TIME), or its deadline has passed and who drives its clock has not yet noticed.
 *          CURLE_OUT_OF_MEMORY; CURLE_FAILED_INIT: the handle is in use; CURLE_RECURSIVE_API_CALL: inside a callback of it.
 * Threads: any; a handle is used by one thread at a time, as always with libcurl. The context may end from any thread.
 * Blocks:  until the result or the end.
 * Order:   [CURL-4] [CURL-5].
 * Cost:    a curl_multi_poll() per wakeup. The context's eventfd (rctx_fd()) is made at the first call; if it can not be (no
 *          descriptors left), the context is looked at every 10 ms instead.
 */
RCTX_API CURLcode rctx_curl_perform(const rctx *ctx, CURL *easy, CURLM *multi) RCTX_NONNULL(1, 2) RCTX_MUST_CHECK;

/* ---- transfers on a multi handle of the program's ---------------------------------------------------------------- */

/*
 * The driving thread is the one that calls curl_multi_perform() or curl_multi_socket_action(); it also calls
 * rctx_loop_drain() and the functions below. A turn of it, here with curl_multi_poll():
 *
 *   curl_multi_perform(multi, &running);
 *   rctx_curl_finish_done(multi);                               // reports those that have finished
 *   curl_multi_poll(multi, &(struct curl_waitfd){.fd = rctx_loop_fd(loop), .events = CURL_WAIT_POLLIN}, 1, 60000, NULL);
 *   rctx_loop_drain(loop, 64);                                  // reports those that their context has ended
 *
 * With an event loop it is the same in pieces: rctx_curl_finish_done() after each curl_multi_socket_action(), rctx_loop_drain()
 * when rctx_loop_fd() is readable. Before the multi handle or the loop goes, all transfers are over or stopped.
 */

struct rctx_curl_transfer;

/** Called once when a transfer is over, unless it was stopped; on the driving thread, inside rctx_curl_finish_done(),
 *  rctx_curl_finish() or rctx_loop_drain(). @result as rctx_curl_perform() returns it. The transfer's first three members can
 *  be read, its context, too, is held until on_end has returned. Legal inside: everything but curl_multi_cleanup();
 *  starting this or another transfer, stopping another, freeing this one. */
typedef void (*rctx_curl_end_fn)(struct rctx_curl_transfer *transfer, CURLcode result);

/** One transfer: storage only. Zero-initialise it before its first use; a member of whatever the program keeps per transfer. */
struct rctx_curl_transfer {
  const rctx *ctx; /* these three to be read in on_end */
  CURL *easy;
  bool by_context; /* its context, or the time that its context has, ended it: rctx_why(ctx) tells who */
  bool rctx__put_off;
  bool rctx__running;
  CURLM *rctx__multi;
  rctx_curl_end_fn rctx__on_end;
  struct rctx_curl_transfer *rctx__next;
  struct rctx_after rctx__watch;
};

/**
 * rctx_curl_start - add a transfer to a multi handle, for as long as the context is live.
 *
 * @transfer: borrowed until it is over [CURL-3].
 * @ctx:      retained (a reference) until on_end has returned or it is stopped.
 * @multi, @easy, @loop: borrowed until it is over. The easy handle stays the caller's: on_end may reuse it or clean it up.
 * @on_end:   called when it is over [CURL-1].
 *
 * Returns: 0; else nothing was started, on_end will not be called: the context's error if it has ended, -ETIMEDOUT if no time
 *          is left; -EBUSY: the transfer is running, or the easy handle is in a multi handle; -ENOMEM; -EDEADLK: inside a
 *          callback of this multi handle; -EINVAL: on_end is NULL, or what else libcurl does not accept.
 * Threads: the driving thread [CURL-2]. The context may end on any thread, at any time.
 * Races:   a result and the end at once: the one that the driving thread takes up first is reported.
 * Cost:    a registration (after.h) and curl_multi_add_handle(); nothing is allocated here.
 */
RCTX_API int rctx_curl_start(struct rctx_curl_transfer *transfer, const rctx *ctx, CURLM *multi, CURL *easy,
                             rctx_loop *loop, rctx_curl_end_fn on_end) RCTX_NONNULL(1, 2) RCTX_MUST_CHECK;

/**
 * rctx_curl_stop - take a transfer out without a report. An unfinished one loses its connection [CURL-5].
 *
 * Returns: 0: it was running, and on_end will not be called [CURL-1] [CURL-3]; -EALREADY: it was over, or never started (also
 *          inside its own on_end); -EDEADLK: inside a callback of this multi handle, where libcurl can not do it: nothing was
 *          done. (Return an error from that callback instead, or cancel a context.)
 * Threads: the driving thread; another thread cancels a context. Blocks: never, but see CURLOPT_QUICK_EXIT.
 */
RCTX_API int rctx_curl_stop(struct rctx_curl_transfer *transfer) RCTX_NONNULL(1);

/**
 * rctx_curl_finish_done - take libcurl's messages and report the transfers that have finished.
 *
 * To be called after each curl_multi_perform() and curl_multi_socket_action(). Every easy handle in @multi was started by
 * rctx_curl_start(): a program that has others in it takes the messages itself and hands on those that are ours to
 * rctx_curl_finish(). Also reports what was put off: if the loop was drained inside a callback of libcurl, by mistake, where no
 * handle can be taken out, the end of such a transfer is reported here, or in a later drain.
 *
 * Returns how many were reported. Threads: the driving thread; inside a callback of libcurl it does nothing.
 */
RCTX_API size_t rctx_curl_finish_done(CURLM *multi) RCTX_NONNULL(1);

/** rctx_curl_finish - report one transfer with the result from its CURLMSG_DONE. Returns 0; -EALREADY: it is over already;
 *  -EDEADLK: as rctx_curl_stop(). The message is gone afterwards: copy the result first. */
RCTX_API int rctx_curl_finish(struct rctx_curl_transfer *transfer, CURLcode result) RCTX_NONNULL(1);

/* ---- telling the other side -------------------------------------------------------------------------------------- */

enum { RCTX_CURL_TIMEOUT_HEADER_MAX = 48 };

/**
 * rctx_curl_timeout_header - write "x-request-timeout-ms: N": what is left now, less a reserve for the way back.
 *
 * For curl_slist_append() and CURLOPT_HTTPHEADER. Rounded down to whole milliseconds. A retry calls it again: it sends the rest,
 * not what there was at first.
 *
 * @buf, @size: RCTX_CURL_TIMEOUT_HEADER_MAX bytes suffice. Written unless a negative number is returned.
 *
 * Returns: the length; 0: there is no deadline, so no header (buf is ""); negative, do not start: the context's error if it
 *          has ended, -ETIMEDOUT if less than a millisecond is left; -ENOSPC: buf is too small; -EINVAL: reserve_ns < 0.
 */
RCTX_API int rctx_curl_timeout_header(const rctx *ctx, int64_t reserve_ns, char *buf, size_t size)
    RCTX_NONNULL(1, 3) RCTX_MUST_CHECK;

RCTX_END_DECLS
#endif
