// The libcurl adapter against a slow HTTP server in the same process: one transfer in the calling thread, many on a multi handle,
// and every way in which one can be over.
//
// No test waits for an absolute time: that a call returns at all from a server that never answers is the fact, and a watchdog
// ends what hangs. Threads tell each other how far they are by semaphores and by what the server has counted.
#include "examples/support/slow_server.h"
#include "support/check.h"
#include "support/leftovers.h"
#include "support/seed.h"
#include "support/tasks.h"
#include "support/threads.h"
#include "support/watchdog.h"

#include "core/platform.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <event2/event.h>
#include <fcntl.h>
#include <netdb.h>
#include <rctx/adapt/curl.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/resource.h>

#define MS INT64_C(1000000)
#define LONG (60000 * MS)
enum { WATCHDOG_S = 60 };

static struct slow_server *server;

static void open_all(void) {
  watchdog(WATCHDOG_S);
  signal(SIGPIPE, SIG_IGN);
  if (curl_global_init(CURL_GLOBAL_DEFAULT)) abort();
  server = slow_server_start();
  if (!server) abort();
}

static void close_all(void) {
  slow_server_stop(server);
  curl_global_cleanup();
  nothing_left_by_default();
}

static size_t count_bytes(char *data, size_t size, size_t n, void *arg) {
  (void)data;
  *(size_t *)arg += size * n;
  return size * n;
}

static CURL *easy_to(const char *url, size_t *bytes) {
  CURL *easy = curl_easy_init();
  cr_assert_not_null(easy);
  curl_easy_setopt(easy, CURLOPT_URL, url);
  curl_easy_setopt(easy, CURLOPT_PROXY, ""); // not what the environment says
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, count_bytes);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, bytes);
  return easy;
}

static CURL *easy_for(const char *path, size_t *bytes) {
  char url[256];
  return easy_to(slow_server_url(server, path, url, sizeof url), bytes);
}

static long status_of(CURL *easy) {
  long status = 0;
  curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
  return status;
}

// Another thread that cancels once the server has read so many requests.
struct canceller {
  struct threads threads;
  rctx *ctx;
  unsigned requests;
};

static void cancel_when_requested(unsigned index, void *arg) {
  struct canceller *canceller = arg;
  (void)index;
  if (slow_server_wait(server, SLOW_SERVER_REQUESTS, canceller->requests)) rctx_cancel(canceller->ctx);
}

// A port where connecting hangs: somebody listens, nobody accepts, and the queue is full.
struct deaf_port {
  int fds[8];
  char url[64];
};

static void deaf_port_open(struct deaf_port *port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  port->fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  cr_assert_eq(bind(port->fds[0], (struct sockaddr *)&address, length), 0);
  cr_assert_eq(listen(port->fds[0], 0), 0);
  cr_assert_eq(getsockname(port->fds[0], (struct sockaddr *)&address, &length), 0);
  for (int i = 1; i < 8; i++) {
    port->fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    (void)!connect(port->fds[i], (struct sockaddr *)&address, length);
  }
  snprintf(port->url, sizeof port->url, "http://127.0.0.1:%d/", ntohs(address.sin_port));
}

static void deaf_port_close(struct deaf_port *port) {
  for (int i = 0; i < 8; i++) close(port->fds[i]);
}

static int post_semaphore(void *arg, curl_socket_t fd, curlsocktype purpose) {
  (void)fd;
  (void)purpose;
  sem_post(arg);
  return CURL_SOCKOPT_OK;
}

struct on_signal {
  sem_t go;
  rctx *ctx;
  int64_t pause_ns; // before it cancels
};

static void cancel_on_signal(unsigned index, void *arg) {
  struct on_signal *signal = arg;
  (void)index;
  while (sem_wait(&signal->go)) {
  }
  rctx_sleep(rctx_background(), signal->pause_ns);
  rctx_cancel(signal->ctx);
}

// ---- one transfer in the calling thread -----------------------------------------------------------------------------

TestSuite(perform, .init = open_all, .fini = close_all, .timeout = 120);

Test(perform, returns_what_the_server_answers) {
  size_t bytes = 0;
  RCTX_SCOPED rctx *ctx = rctx_with_timeout(rctx_background(), LONG);
  CURL *easy = easy_for("/slow?ms=20&status=404", &bytes);
  cr_assert_eq(rctx_curl_perform(ctx, easy, NULL), CURLE_OK);
  cr_assert_eq(status_of(easy), 404);
  cr_assert_eq(bytes, 61);
  cr_assert_eq(rctx_err(ctx), 0);
  curl_easy_cleanup(easy);
}

Test(perform, works_with_a_context_that_can_not_end) {
  size_t bytes = 0;
  CURL *easy = easy_for("/big?bytes=3000000", &bytes);
  cr_assert_eq(rctx_curl_perform(rctx_background(), easy, NULL), CURLE_OK);
  cr_assert_eq(bytes, 3000000);
  curl_easy_cleanup(easy);
}

// Until its deadline; again with more time if the machine is so busy that the server had not even read the request by then.
static void perform_until_deadline(const char *path) {
  size_t bytes = 0;
  CURL *easy = easy_for(path, &bytes);
  for (int64_t timeout = 50 * MS; slow_server_counted(server, SLOW_SERVER_REQUESTS) == 0; timeout *= 4) {
    int64_t deadline = rctx_now() + timeout;
    RCTX_SCOPED rctx *ctx = rctx_with_deadline(rctx_background(), deadline);
    cr_assert_eq(rctx_curl_perform(ctx, easy, NULL), CURLE_OPERATION_TIMEDOUT);
    cr_assert_geq(rctx_now(), deadline);
    cr_assert_eq(rctx_wait(ctx, INT64_MAX), -ETIMEDOUT);
  }
  cr_assert(slow_server_wait(server, SLOW_SERVER_HANG_UPS, 1));
  curl_easy_cleanup(easy);
}

Test(perform, ends_at_the_deadline_and_the_server_notices__CURL_5) { perform_until_deadline("/never"); }

Test(perform, ends_in_the_middle_of_an_answer) { perform_until_deadline("/drip?ms=1&bytes=100000000"); }

Test(perform, ends_when_another_thread_cancels_an_ancestor) {
  size_t bytes = 0;
  RCTX_SCOPED rctx *request = rctx_with_cancel(rctx_background());
  RCTX_SCOPED rctx *call = rctx_with_timeout(request, LONG);
  struct canceller canceller = {.ctx = request, .requests = 1};
  CURL *easy = easy_for("/never", &bytes);
  threads_start(&canceller.threads, 1, cancel_when_requested, &canceller);
  cr_assert_eq(rctx_curl_perform(call, easy, NULL), CURLE_ABORTED_BY_CALLBACK);
  struct rctx_why why;
  cr_assert_eq(rctx_why(call, &why), -ECANCELED);
  cr_assert_eq(why.levels_up, 1);
  cr_assert(slow_server_wait(server, SLOW_SERVER_HANG_UPS, 1));
  threads_join(&canceller.threads);
  curl_easy_cleanup(easy);
}

Test(perform, ends_while_connecting) {
  struct deaf_port port;
  size_t bytes = 0;
  RCTX_SCOPED rctx *ctx = rctx_with_timeout(rctx_background(), LONG);
  struct on_signal signal = {.ctx = ctx};
  struct threads threads;
  deaf_port_open(&port);
  sem_init(&signal.go, 0, 0);
  CURL *easy = easy_to(port.url, &bytes);
  curl_easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, post_semaphore);
  curl_easy_setopt(easy, CURLOPT_SOCKOPTDATA, &signal.go);
  threads_start(&threads, 1, cancel_on_signal, &signal);
  cr_assert_eq(rctx_curl_perform(ctx, easy, NULL), CURLE_ABORTED_BY_CALLBACK);
  threads_join(&threads);
  curl_easy_cleanup(easy);
  deaf_port_close(&port);
}

// A resolver that is stuck, for one name: stands in front of the C library's for libcurl's resolver thread.
static sem_t resolving, resolve_now;
static atomic_bool resolved;

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
  if (node && strcmp(node, "stuck.test") == 0) {
    sem_post(&resolving);
    while (sem_wait(&resolve_now)) {
    }
    atomic_store(&resolved, true);
    return EAI_AGAIN;
  }
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
  return real(node, service, hints, found);
}

static void cancel_when_resolving(unsigned index, void *arg) {
  (void)index;
  while (sem_wait(&resolving)) {
  }
  rctx_cancel(arg);
}

Test(perform, ends_while_a_name_is_being_resolved) {
  const curl_version_info_data *curl = curl_version_info(CURLVERSION_NOW);
  if (!(curl->features & CURL_VERSION_ASYNCHDNS) || curl->version_num < 0x075700)
    cr_skip_test("this libcurl resolves in the calling thread, or waits for the thread that does");
  size_t bytes = 0;
  struct threads threads;
  RCTX_SCOPED rctx *ctx = rctx_with_timeout(rctx_background(), LONG);
  sem_init(&resolving, 0, 0);
  sem_init(&resolve_now, 0, 0);
  CURL *easy = easy_to("http://stuck.test/", &bytes);
  threads_start(&threads, 1, cancel_when_resolving, ctx);
  cr_assert_eq(rctx_curl_perform(ctx, easy, NULL), CURLE_ABORTED_BY_CALLBACK);
  cr_assert_not(atomic_load(&resolved), "it has not waited for the resolver");
  threads_join(&threads);
  curl_easy_cleanup(easy);
  size_t with_resolver = tasks_now();
  sem_post(&resolve_now);
  cr_assert(tasks_are(with_resolver - 1), "the resolver's thread ends by itself");
}

Test(perform, starts_nothing_for_a_context_that_has_ended__CURL_4) {
  size_t bytes = 0;
  CURL *easy = easy_for("/quick", &bytes);
  RCTX_SCOPED rctx *cancelled = rctx_with_cancel(rctx_background());
  rctx_cancel(cancelled);
  cr_assert_eq(rctx_curl_perform(cancelled, easy, NULL), CURLE_ABORTED_BY_CALLBACK);
  RCTX_SCOPED rctx *late = rctx_with_timeout(rctx_background(), -1);
  cr_assert_eq(rctx_curl_perform(late, easy, NULL), CURLE_OPERATION_TIMEDOUT);
  RCTX_SCOPED rctx *broken = rctx_with_cancel(rctx_background());
  rctx_cancel_with(broken, -EPIPE, RCTX_ORIGIN_PEER, "a code of our own");
  cr_assert_eq(rctx_curl_perform(broken, easy, NULL), CURLE_ABORTED_BY_CALLBACK);
  // and now one that may: it is the only one the server has seen
  cr_assert_eq(rctx_curl_perform(rctx_background(), easy, NULL), CURLE_OK);
  cr_assert_eq(slow_server_counted(server, SLOW_SERVER_CONNECTIONS), 1);
  curl_easy_cleanup(easy);
}

Test(perform, is_limited_by_the_budget_also_when_nobody_drives_the_clock__CURL_4) {
  rctx_manager *manager;
  size_t bytes = 0;
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.drive = RCTX_DRIVE_EMBEDDER}, &manager), 0);
  int64_t deadline = rctx_now() + 50 * MS;
  rctx *ctx = rctx_with_deadline(rctx_manager_background(manager), deadline);
  CURL *easy = easy_for("/never", &bytes);
  cr_assert_eq(rctx_curl_perform(ctx, easy, NULL), CURLE_OPERATION_TIMEDOUT);
  cr_assert_geq(rctx_now(), deadline + 100 * MS, "libcurl is the second line of defence");
  cr_assert_eq(rctx_err(ctx), 0, "nobody has ended it");
  // the time is over, though nobody has said so: nothing is started
  cr_assert_eq(rctx_curl_perform(ctx, easy, NULL), CURLE_OPERATION_TIMEDOUT);
  cr_assert_leq(slow_server_counted(server, SLOW_SERVER_CONNECTIONS), 1);
  curl_easy_cleanup(easy);
  rctx_end(ctx);
  cr_assert_eq(rctx_manager_destroy(manager), 0);
}

Test(perform, leaves_other_limits_and_errors_to_libcurl) {
  struct deaf_port port;
  size_t bytes = 0;
  RCTX_SCOPED rctx *ctx = rctx_with_timeout(rctx_background(), LONG);
  deaf_port_open(&port);
  CURL *easy = easy_to(port.url, &bytes);
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, 30L);
  cr_assert_eq(rctx_curl_perform(ctx, easy, NULL), CURLE_OPERATION_TIMEDOUT);
  cr_assert_eq(rctx_err(ctx), 0, "that was not the context");
  deaf_port_close(&port);
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, 0L);
  cr_assert_eq(rctx_curl_perform(ctx, easy, NULL), CURLE_COULDNT_CONNECT);
  curl_easy_cleanup(easy);
}

Test(perform, keeps_connections_in_the_callers_multi_but_not_one_of_a_transfer_that_was_ended) {
  size_t bytes = 0;
  CURLM *multi = curl_multi_init();
  CURL *easy = easy_for("/quick", &bytes);
  RCTX_SCOPED rctx *ctx = rctx_with_timeout(rctx_background(), LONG);
  for (int i = 0; i < 3; i++) cr_assert_eq(rctx_curl_perform(ctx, easy, multi), CURLE_OK);
  cr_assert_eq(slow_server_counted(server, SLOW_SERVER_CONNECTIONS), 1);
  RCTX_SCOPED rctx *call = rctx_with_cancel(ctx);
  struct canceller canceller = {.ctx = call, .requests = 4};
  CURL *never = easy_for("/never", &bytes);
  threads_start(&canceller.threads, 1, cancel_when_requested, &canceller);
  cr_assert_eq(rctx_curl_perform(call, never, multi), CURLE_ABORTED_BY_CALLBACK);
  threads_join(&canceller.threads);
  cr_assert_eq(slow_server_counted(server, SLOW_SERVER_CONNECTIONS), 1);
  cr_assert(slow_server_wait(server, SLOW_SERVER_HANG_UPS, 1));
  cr_assert_eq(rctx_curl_perform(ctx, easy, multi), CURLE_OK);
  cr_assert_eq(slow_server_counted(server, SLOW_SERVER_CONNECTIONS), 2);
  curl_easy_cleanup(never);
  curl_easy_cleanup(easy);
  curl_multi_cleanup(multi);
}

Test(perform, leaves_no_old_budget_in_a_handle_that_is_used_again) {
  size_t bytes = 0;
  CURL *easy = easy_for("/never", &bytes);
  char url[128];
  RCTX_SCOPED rctx *ctx = rctx_with_timeout(rctx_background(), 20 * MS);
  cr_assert_eq(rctx_curl_perform(ctx, easy, NULL), CURLE_OPERATION_TIMEDOUT);
  curl_easy_setopt(easy, CURLOPT_URL, slow_server_url(server, "/slow?ms=300", url, sizeof url));
  cr_assert_eq(curl_easy_perform(easy), CURLE_OK);
  curl_easy_cleanup(easy);
}

static size_t cancel_in_callback(char *data, size_t size, size_t n, void *arg) {
  (void)data;
  rctx_cancel(arg);
  return size * n;
}

Test(perform, ends_when_its_own_callback_cancels) {
  RCTX_SCOPED rctx *ctx = rctx_with_cancel(rctx_background());
  CURL *easy = easy_for("/drip?ms=1&bytes=100000000", NULL);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, cancel_in_callback);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, ctx);
  cr_assert_eq(rctx_curl_perform(ctx, easy, NULL), CURLE_ABORTED_BY_CALLBACK);
  curl_easy_cleanup(easy);
}

Test(perform, returns_a_result_that_is_there_when_the_end_is_noticed) {
  RCTX_SCOPED rctx *ctx = rctx_with_cancel(rctx_background());
  CURL *easy = easy_for("/quick", NULL);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, cancel_in_callback); // with the last byte
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, ctx);
  cr_assert_eq(rctx_curl_perform(ctx, easy, NULL), CURLE_OK);
  cr_assert_eq(rctx_err(ctx), -ECANCELED);
  curl_easy_cleanup(easy);
}

struct inside {
  CURL *easy, *other;
  CURLM *multi;
  CURLcode same, second;
};

static size_t perform_in_callback(char *data, size_t size, size_t n, void *arg) {
  struct inside *inside = arg;
  (void)data;
  inside->same = rctx_curl_perform(rctx_background(), inside->easy, inside->multi);
  inside->second = rctx_curl_perform(rctx_background(), inside->other, inside->multi);
  return size * n;
}

Test(perform, refuses_a_handle_in_use) {
  size_t bytes = 0;
  struct inside inside = {
      .easy = easy_for("/quick", NULL), .other = easy_for("/quick", &bytes), .multi = curl_multi_init()};
  curl_easy_setopt(inside.easy, CURLOPT_WRITEFUNCTION, perform_in_callback);
  curl_easy_setopt(inside.easy, CURLOPT_WRITEDATA, &inside);
  cr_assert_eq(rctx_curl_perform(rctx_background(), inside.easy, inside.multi), CURLE_OK);
  cr_assert_eq(inside.same, CURLE_FAILED_INIT);
  cr_assert_eq(inside.second, CURLE_RECURSIVE_API_CALL);
  curl_easy_cleanup(inside.easy);
  curl_easy_cleanup(inside.other);
  curl_multi_cleanup(inside.multi);
}

static curl_socket_t give_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address) {
  (void)purpose;
  (void)address;
  return *(int *)arg;
}

Test(perform, ends_also_without_a_descriptor_for_the_context) {
  struct deaf_port port;
  size_t bytes = 0;
  RCTX_SCOPED rctx *ctx = rctx_with_cancel(rctx_background());
  struct on_signal signal = {.ctx = ctx, .pause_ns = 500 * MS}; // no timer of libcurl's runs any more by then
  struct threads threads;
  struct rlimit limit, before;
  CURLM *multi = curl_multi_init();
  deaf_port_open(&port);
  sem_init(&signal.go, 0, 0);
  CURL *easy = easy_to(port.url, &bytes);
  int ready_made = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, give_socket);
  curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, &ready_made);
  curl_easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, post_semaphore);
  curl_easy_setopt(easy, CURLOPT_SOCKOPTDATA, &signal.go);
  threads_start(&threads, 1, cancel_on_signal, &signal);
  int next = dup(0);
  close(next);
  getrlimit(RLIMIT_NOFILE, &before);
  limit = before;
  limit.rlim_cur = (rlim_t)next;
  setrlimit(RLIMIT_NOFILE, &limit);
  cr_assert_eq(rctx_fd(ctx), -EMFILE, "the test is about this");
  cr_assert_eq(rctx_curl_perform(ctx, easy, multi), CURLE_ABORTED_BY_CALLBACK);
  setrlimit(RLIMIT_NOFILE, &before);
  threads_join(&threads);
  curl_easy_cleanup(easy);
  curl_multi_cleanup(multi);
  deaf_port_close(&port);
}

static void perform_never(unsigned index, void *arg) {
  size_t bytes = 0;
  CURL *easy = easy_for("/never", &bytes);
  RCTX_SCOPED rctx *ctx = rctx_with_timeout(arg, LONG);
  (void)index;
  cr_expect_eq(rctx_curl_perform(ctx, easy, NULL), CURLE_ABORTED_BY_CALLBACK);
  curl_easy_cleanup(easy);
}

Test(perform, ends_in_all_threads_when_their_server_context_is_cancelled) {
  struct threads threads;
  RCTX_SCOPED rctx *all = rctx_with_cancel(rctx_background());
  threads_start(&threads, 16, perform_never, all);
  cr_assert(slow_server_wait(server, SLOW_SERVER_REQUESTS, 16));
  rctx_cancel(all);
  threads_join(&threads);
  cr_assert(slow_server_wait(server, SLOW_SERVER_HANG_UPS, 16));
}

// ---- transfers on a multi handle ------------------------------------------------------------------------------------

static CURLM *multi;
static rctx_loop *loop;
static pthread_t driver;

static void open_multi(void) {
  open_all();
  driver = pthread_self();
  multi = curl_multi_init();
  if (!multi || rctx_loop_create(&loop)) abort();
}

static void close_multi(void) {
  rctx_loop_destroy(loop);
  curl_multi_cleanup(multi);
  close_all();
}

struct job {
  struct rctx_curl_transfer transfer;
  rctx *ctx;
  CURL *easy;
  size_t bytes;
  unsigned ends;
  CURLcode result;
  bool by_context;
  int err;           // of the context, in on_end
  struct job *stops; // in on_end
  int stopped;
};

static void job_ended(struct rctx_curl_transfer *transfer, CURLcode result) {
  struct job *job = (struct job *)transfer;
  cr_assert(pthread_equal(pthread_self(), driver), "on the driving thread");
  job->ends++;
  job->result = result;
  job->by_context = transfer->by_context;
  job->err = rctx_err(transfer->ctx);
  if (job->stops) job->stopped = rctx_curl_stop(&job->stops->transfer);
}

static void job_open(struct job *job, const rctx *parent, const char *path) {
  *job = (struct job){.ctx = rctx_with_timeout(parent, LONG)};
  job->easy = easy_for(path, &job->bytes);
}

static int job_start(struct job *job) {
  return rctx_curl_start(&job->transfer, job->ctx, multi, job->easy, loop, job_ended);
}

static void job_open_started(struct job *job, const rctx *parent, const char *path) {
  job_open(job, parent, path);
  cr_assert_eq(job_start(job), 0);
}

static void job_close(struct job *job) {
  rctx_end(job->ctx);
  curl_easy_cleanup(job->easy);
}

// One turn of the driving thread, as the header has it.
static void turn(void) {
  int running;
  cr_assert_eq(curl_multi_perform(multi, &running), CURLM_OK);
  int pause_ms = rctx_curl_finish_done(multi) > 0 ? 0 : 1000; // perhaps that was the last
  struct curl_waitfd drained = {.fd = rctx_loop_fd(loop), .events = CURL_WAIT_POLLIN};
  cr_assert_eq(curl_multi_poll(multi, &drained, 1, pause_ms, NULL), CURLM_OK);
  rctx_loop_drain(loop, 64);
}

static void turn_until_ended(const struct job *job) {
  while (job->ends == 0) turn();
}

static void turn_until_requests(unsigned requests) {
  while (slow_server_counted(server, SLOW_SERVER_REQUESTS) < requests) {
    int running;
    cr_assert_eq(curl_multi_perform(multi, &running), CURLM_OK);
    rctx_curl_finish_done(multi);
    sched_yield();
  }
}

TestSuite(multi, .init = open_multi, .fini = close_multi, .timeout = 120);

Test(multi, a_finished_transfer_is_reported_with_its_result__CURL_1) {
  struct job good, refused;
  job_open_started(&good, rctx_background(), "/slow?ms=20&status=201");
  job_open(&refused, rctx_background(), "/");
  curl_easy_setopt(refused.easy, CURLOPT_URL, "http://127.0.0.1:1/"); // tcpmux: nobody has that
  cr_assert_eq(job_start(&refused), 0);
  while (!good.ends || !refused.ends) turn();
  cr_assert_eq(good.result, CURLE_OK);
  cr_assert_eq(status_of(good.easy), 201);
  cr_assert_eq(good.err, 0);
  cr_assert_eq(refused.result, CURLE_COULDNT_CONNECT);
  cr_assert_not(good.by_context || refused.by_context);
  rctx_cancel(good.ctx); // too late for a report
  rctx_loop_drain(loop, 64);
  cr_assert_eq(good.ends, 1);
  job_close(&good);
  job_close(&refused);
}

Test(multi, ends_at_its_deadline_and_the_server_notices__CURL_5) {
  struct job job;
  for (int64_t timeout = 50 * MS; slow_server_counted(server, SLOW_SERVER_REQUESTS) == 0; timeout *= 4) {
    int64_t deadline = rctx_now() + timeout;
    job_open(&job, rctx_background(), "/never");
    rctx_end(job.ctx);
    job.ctx = rctx_with_deadline(rctx_background(), deadline);
    if (job_start(&job) == 0) { // else the machine is so busy that it was too late already
      turn_until_ended(&job);
      cr_assert_eq(job.result, CURLE_OPERATION_TIMEDOUT);
      cr_assert(job.by_context);
      cr_assert_geq(rctx_now(), deadline);
      cr_assert_eq(rctx_wait(job.ctx, INT64_MAX), -ETIMEDOUT);
    }
    job_close(&job);
  }
  cr_assert(slow_server_wait(server, SLOW_SERVER_HANG_UPS, 1));
}

enum { MANY = 50 };

struct many {
  struct job jobs[MANY];
};

static void cancel_every_second(unsigned index, void *arg) {
  struct many *many = arg;
  (void)index;
  if (!slow_server_wait(server, SLOW_SERVER_REQUESTS, MANY)) return;
  for (int i = 0; i < MANY; i += 2) rctx_cancel(many->jobs[i].ctx);
}

Test(multi, half_of_fifty_cancelled_from_another_thread_each_over_once_on_the_driving_thread__CURL_1__CURL_2) {
  static struct many many;
  struct threads threads;
  unsigned over = 0;
  for (int i = 0; i < MANY; i++) job_open_started(&many.jobs[i], rctx_background(), i % 2 ? "/slow?ms=300" : "/never");
  threads_start(&threads, 1, cancel_every_second, &many);
  while (over < MANY) {
    turn();
    over = 0;
    for (int i = 0; i < MANY; i++) over += many.jobs[i].ends;
  }
  threads_join(&threads);
  for (int i = 0; i < 3; i++) rctx_loop_drain(loop, 64);
  rctx_curl_finish_done(multi);
  for (int i = 0; i < MANY; i++) {
    const struct job *job = &many.jobs[i];
    cr_assert_eq(job->ends, 1);
    cr_assert_eq(job->result, i % 2 ? CURLE_OK : CURLE_ABORTED_BY_CALLBACK);
    cr_assert_eq(job->by_context, i % 2 == 0);
    job_close(&many.jobs[i]);
  }
  cr_assert_eq(slow_server_counted(server, SLOW_SERVER_HANG_UPS), MANY / 2);
}

#if CHECK_LEAKS || defined(__SANITIZE_THREAD__)
enum { RACE_ROUNDS = 150 };
#else
enum { RACE_ROUNDS = 400 };
#endif
enum { RACERS = 6 };

struct race {
  struct threads threads;
  struct job jobs[RACERS];
  rctx *all;
  atomic_int begun, ready, cancelled; // rounds
  uint64_t seed;
};

static void wait_for_round(atomic_int *which, int round) {
  while (atomic_load(which) < round) sched_yield();
}

static void race_cancels(struct race *race) {
  struct rng rng;
  rng_init(&rng, race->seed + 1);
  for (int round = 1; round <= RACE_ROUNDS; round++) {
    uint64_t spins = rng_below(&rng, 20000);
    wait_for_round(&race->begun, round);
    atomic_store(&race->ready, round);
    while (spins-- > 0) __asm__ volatile("");
    rctx_cancel(race->all);
    atomic_store(&race->cancelled, round);
  }
}

static unsigned race_ends(const struct race *race) {
  unsigned ends = 0;
  for (int i = 0; i < RACERS; i++) ends += race->jobs[i].ends;
  return ends;
}

// The cancel comes at some turn, and then from both sides at once.
static unsigned race_round(struct race *race, int round, unsigned turns_before) {
  unsigned turns = 0, finished = 0;
  race->all = rctx_with_cancel(rctx_background());
  for (int i = 0; i < RACERS; i++) job_open_started(&race->jobs[i], race->all, "/quick");
  for (bool over = false; !over;) {
    over = race_ends(race) == RACERS;
    if (turns++ == turns_before || (over && turns <= turns_before)) {
      turns = turns_before + 1;
      atomic_store(&race->begun, round);
      wait_for_round(&race->ready, round);
    }
    if (!over) turn();
  }
  wait_for_round(&race->cancelled, round);
  rctx_curl_finish_done(multi);
  rctx_loop_drain(loop, 64);
  for (int i = 0; i < RACERS; i++) {
    struct job *job = &race->jobs[i];
    cr_assert_eq(job->ends, 1);
    cr_assert_eq(job->by_context, job->result == CURLE_ABORTED_BY_CALLBACK);
    if (!job->by_context) cr_assert_eq(job->result, CURLE_OK);
    finished += !job->by_context;
    job_close(job);
  }
  rctx_end(race->all);
  return finished;
}

static void race_drives(struct race *race) {
  unsigned finished = 0;
  struct rng rng;
  rng_init(&rng, race->seed);
  for (int round = 1; round <= RACE_ROUNDS; round++) {
    atomic_store(&rctx__chaos_mask, round % 2 ? 3 : 0); // yields slow the cancel down, so without them, too
    finished += race_round(race, round, (unsigned)rng_below(&rng, 5));
  }
  fprintf(stderr, "%u of %d finished before the cancel\n", finished, RACE_ROUNDS * RACERS);
}

static void race_thread(unsigned index, void *arg) {
  if (index == 1) {
    race_cancels(arg);
  } else {
    driver = pthread_self();
    race_drives(arg);
  }
}

Test(multi, a_cancel_that_races_with_the_result_gives_one_report__CURL_1) {
  static struct race race;
  race.seed = seed_get();
  atomic_store(&rctx__chaos_seed, race.seed);
  threads_start(&race.threads, 2, race_thread, &race);
  threads_join(&race.threads);
  atomic_store(&rctx__chaos_mask, 0);
}

Test(multi, one_may_be_stopped_inside_the_report_of_another_even_when_both_have_ended__CURL_1) {
  struct job first, second;
  RCTX_SCOPED rctx *all = rctx_with_cancel(rctx_background());
  job_open_started(&first, all, "/never");
  job_open_started(&second, all, "/never");
  first.stops = &second;
  second.stops = &first;
  turn_until_requests(2);
  rctx_cancel(all); // both are queued now
  while (first.ends + second.ends == 0) turn();
  rctx_loop_drain(loop, 64);
  cr_assert_eq(first.ends + second.ends, 1);
  cr_assert_eq(first.ends ? first.stopped : second.stopped, 0);
  cr_assert(slow_server_wait(server, SLOW_SERVER_HANG_UPS, 2));
  job_close(&first);
  job_close(&second);
}

Test(multi, stopping_prevents_the_report_and_only_the_first_stop_counts__CURL_1__CURL_3) {
  struct job job;
  job_open(&job, rctx_background(), "/never");
  cr_assert_eq(rctx_curl_stop(&job.transfer), -EALREADY, "never started");
  cr_assert_eq(job_start(&job), 0);
  turn_until_requests(1);
  rctx_cancel(job.ctx); // queued, not yet drained
  cr_assert_eq(rctx_curl_stop(&job.transfer), 0);
  cr_assert_eq(rctx_curl_stop(&job.transfer), -EALREADY);
  cr_assert_eq(rctx_loop_drain(loop, 64), 0);
  cr_assert_eq(rctx_curl_finish(&job.transfer, CURLE_OK), -EALREADY);
  cr_assert_eq(job.ends, 0);
  cr_assert(slow_server_wait(server, SLOW_SERVER_HANG_UPS, 1));
  job_close(&job);
  job_open_started(&job, rctx_background(), "/never"); // live, and the memory is filled meanwhile
  cr_assert_eq(rctx_curl_stop(&job.transfer), 0);
  rctx_cancel(job.ctx);
  struct job copy = job;
  memset(&job, 0xA5, sizeof job);
  rctx_loop_drain(loop, 64);
  job_close(&copy);
}

struct once {
  struct rctx_curl_transfer transfer;
  unsigned *frees;
};

static void free_in_report(struct rctx_curl_transfer *transfer, CURLcode result) {
  struct once *once = (struct once *)transfer;
  (void)result;
  (*once->frees)++;
  curl_easy_cleanup(transfer->easy);
  memset(once, 0xA5, sizeof *once);
  free(once);
}

Test(multi, the_report_may_free_the_transfer_and_the_handle__CURL_3) {
  size_t bytes = 0;
  unsigned frees = 0;
  rctx *ctx = rctx_with_cancel(rctx_background());
  for (int i = 0; i < 8; i++) {
    struct once *once = calloc(1, sizeof *once);
    cr_assert_not_null(once);
    once->frees = &frees;
    CURL *easy = easy_for(i % 2 ? "/quick" : "/never", &bytes);
    cr_assert_eq(rctx_curl_start(&once->transfer, ctx, multi, easy, loop, free_in_report), 0);
  }
  while (frees < 4) turn();
  rctx_end(ctx); // the handle goes before the reports: each transfer has a reference
  while (frees < 8) turn();
  cr_assert_eq(frees, 8);
}

static void start_again(struct rctx_curl_transfer *transfer, CURLcode result) {
  struct job *job = (struct job *)transfer;
  char url[128];
  job->ends++;
  job->result = result;
  if (job->ends == 3) return;
  curl_easy_setopt(job->easy, CURLOPT_URL, slow_server_url(server, job->ends == 1 ? "/quick" : "/never", url, 128));
  const rctx *ctx = job->ends == 1 ? rctx_background() : job->ctx;
  cr_assert_eq(rctx_curl_start(transfer, ctx, multi, job->easy, loop, start_again), 0);
}

Test(multi, the_report_may_start_the_transfer_again__CURL_3) {
  struct job job;
  RCTX_SCOPED rctx *first = rctx_with_cancel(rctx_background());
  job_open(&job, rctx_background(), "/never");
  cr_assert_eq(rctx_curl_start(&job.transfer, first, multi, job.easy, loop, start_again), 0);
  turn_until_requests(1);
  rctx_cancel(first);
  turn_until_ended(&job); // started again in there
  cr_assert_eq(job.result, CURLE_ABORTED_BY_CALLBACK);
  while (job.ends < 2) turn(); // and again
  cr_assert_eq(job.result, CURLE_OK);
  turn_until_requests(3);
  rctx_cancel(job.ctx);
  while (job.ends < 3) turn();
  cr_assert_eq(job.result, CURLE_ABORTED_BY_CALLBACK);
  job_close(&job);
}

Test(multi, its_context_is_held_until_the_report_is_over) {
  struct job job;
  job_open_started(&job, rctx_background(), "/never");
  turn_until_requests(1);
  rctx_end(job.ctx); // ends it, and nobody else holds it
  turn_until_ended(&job);
  cr_assert_eq(job.err, -ECANCELED);
  cr_assert_eq(job.result, CURLE_ABORTED_BY_CALLBACK);
  curl_easy_cleanup(job.easy);
}

Test(multi, starts_nothing_without_a_live_context_and_leaves_nothing_registered__CURL_4) {
  struct job job;
  RCTX_SCOPED rctx *cancelled = rctx_with_cancel(rctx_background());
  RCTX_SCOPED rctx *late = rctx_with_timeout(rctx_background(), -1);
  job_open(&job, rctx_background(), "/quick");
  rctx_cancel_with(cancelled, -EPIPE, RCTX_ORIGIN_PEER, "gone");
  cr_assert_eq(rctx_curl_start(&job.transfer, cancelled, multi, job.easy, loop, job_ended), -EPIPE);
  cr_assert_eq(rctx_curl_start(&job.transfer, late, multi, job.easy, loop, job_ended), -ETIMEDOUT);
  cr_assert_eq(rctx_curl_start(&job.transfer, job.ctx, multi, job.easy, loop, NULL), -EINVAL);
  cr_assert_eq(rctx_curl_start(&job.transfer, job.ctx, NULL, job.easy, loop, job_ended), -EINVAL);
  cr_assert_eq(rctx_curl_stop(&job.transfer), -EALREADY);
  CURLM *other = curl_multi_init();
  cr_assert_eq(curl_multi_add_handle(other, job.easy), CURLM_OK);
  cr_assert_eq(job_start(&job), -EBUSY, "the handle is in another multi handle");
  cr_assert_eq(curl_multi_remove_handle(other, job.easy), CURLM_OK);
  curl_multi_cleanup(other);
  struct rctx_info info;
  rctx_inspect(job.ctx, &info);
  cr_assert_eq(info.registrations, 0);
  cr_assert_eq(info.references, 1);
  cr_assert_eq(job_start(&job), 0);
  cr_assert_eq(job_start(&job), -EBUSY);
  turn_until_ended(&job);
  cr_assert_eq(job.result, CURLE_OK);
  cr_assert_eq(slow_server_counted(server, SLOW_SERVER_CONNECTIONS), 1);
  job_close(&job);
}

// What must not be done inside a callback of libcurl, done there.
struct mistake {
  struct job *self, *other, *third;
  unsigned ends; // seen inside the callback
  int stop, start, perform;
  bool made;
};

static size_t make_mistakes(char *data, size_t size, size_t n, void *arg) {
  struct mistake *mistake = arg;
  (void)data;
  if (mistake->made) return size * n;
  mistake->made = true;
  mistake->stop = rctx_curl_stop(&mistake->other->transfer);
  mistake->start = job_start(mistake->third);
  rctx_cancel(mistake->self->ctx);
  rctx_cancel(mistake->other->ctx);
  rctx_loop_drain(loop, SIZE_MAX);
  rctx_curl_finish_done(multi);
  mistake->ends = mistake->self->ends + mistake->other->ends;
  return size * n;
}

Test(multi, what_is_drained_inside_a_callback_of_libcurl_is_put_off__CURL_2) {
  struct job self, other, third, stopped;
  struct mistake mistake = {&self, &other, &third, 0, 0, 0, 0, false};
  job_open_started(&other, rctx_background(), "/never");
  job_open_started(&stopped, rctx_background(), "/never");
  job_open(&third, rctx_background(), "/quick");
  turn_until_requests(2);
  job_open(&self, rctx_background(), "/drip?ms=1&bytes=100000000");
  curl_easy_setopt(self.easy, CURLOPT_WRITEFUNCTION, make_mistakes);
  curl_easy_setopt(self.easy, CURLOPT_WRITEDATA, &mistake);
  cr_assert_eq(job_start(&self), 0);
  int running;
  while (!mistake.made) {
    cr_assert_eq(curl_multi_perform(multi, &running), CURLM_OK);
    sched_yield();
  }
  cr_assert_eq(mistake.stop, -EDEADLK);
  cr_assert_eq(mistake.start, -EDEADLK);
  cr_assert_eq(mistake.ends, 0, "not inside the callback");
  cr_assert_eq(rctx_curl_stop(&other.transfer), 0, "what was put off can still be stopped");
  cr_assert_eq(rctx_curl_finish_done(multi), 1);
  cr_assert_eq(self.ends, 1);
  cr_assert_eq(self.result, CURLE_ABORTED_BY_CALLBACK);
  cr_assert(self.by_context);
  cr_assert_eq(other.ends, 0);
  cr_assert_eq(rctx_curl_stop(&stopped.transfer), 0);
  cr_assert_eq(job_start(&third), 0);
  turn_until_ended(&third);
  job_close(&self);
  job_close(&other);
  job_close(&third);
  job_close(&stopped);
}

Test(multi, a_budget_that_libcurl_has_noticed_first_counts_as_the_contexts) {
  rctx_manager *manager;
  struct job job;
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.drive = RCTX_DRIVE_EMBEDDER}, &manager), 0);
  job_open(&job, rctx_background(), "/never");
  rctx_end(job.ctx);
  job.ctx = rctx_with_timeout(rctx_manager_background(manager), 500 * MS);
  cr_assert_eq(job_start(&job), 0);
  turn_until_ended(&job);
  cr_assert_eq(job.result, CURLE_OPERATION_TIMEDOUT);
  cr_assert(job.by_context);
  cr_assert_eq(job.err, 0, "nobody drives its clock");
  cr_assert_eq(job_start(&job), -ETIMEDOUT, "the time is over, though nobody has said so");
  job_close(&job);
  cr_assert_eq(rctx_manager_destroy(manager), 0);
}

Test(multi, a_loop_takes_the_slice_it_can_afford) {
  struct job jobs[6];
  RCTX_SCOPED rctx *all = rctx_with_cancel(rctx_background());
  for (int i = 0; i < 6; i++) job_open_started(&jobs[i], all, "/never");
  turn_until_requests(6);
  rctx_cancel(all);
  for (unsigned drained = 1; drained <= 6; drained++) {
    unsigned ends = 0;
    cr_assert_eq(rctx_loop_drain(loop, 1), 1);
    for (int i = 0; i < 6; i++) ends += jobs[i].ends;
    cr_assert_eq(ends, drained);
  }
  for (int i = 0; i < 6; i++) job_close(&jobs[i]);
}

// A multi handle that others use, too: they take the messages themselves.
Test(multi, shares_a_multi_handle_with_transfers_of_another_kind) {
  struct job ours;
  size_t bytes = 0;
  int running, left, foreign = 0;
  CURL *theirs = easy_for("/quick", &bytes);
  curl_easy_setopt(theirs, CURLOPT_PRIVATE, theirs);
  job_open_started(&ours, rctx_background(), "/quick");
  cr_assert_eq(curl_multi_add_handle(multi, theirs), CURLM_OK);
  while (!ours.ends || !foreign) {
    cr_assert_eq(curl_multi_perform(multi, &running), CURLM_OK);
    for (CURLMsg *message; (message = curl_multi_info_read(multi, &left));) {
      CURL *easy = message->easy_handle;
      CURLcode result = message->data.result;
      void *mine;
      curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&mine);
      if (mine == theirs)
        foreign++;
      else
        cr_assert_eq(rctx_curl_finish(mine, result), 0);
    }
    curl_multi_poll(multi, NULL, 0, 100, NULL);
  }
  cr_assert_eq(ours.result, CURLE_OK);
  curl_multi_remove_handle(multi, theirs);
  curl_easy_cleanup(theirs);
  job_close(&ours);
}

// ---- on an event loop: libevent, with curl_multi_socket_action() ----------------------------------------------------

struct reactor {
  struct event_base *base;
  struct event *timer, *drained;
};

static void socket_ready(evutil_socket_t fd, short what, void *arg) {
  int running, flags = (what & EV_READ ? CURL_CSELECT_IN : 0) | (what & EV_WRITE ? CURL_CSELECT_OUT : 0);
  (void)arg;
  curl_multi_socket_action(multi, fd, flags, &running);
  rctx_curl_finish_done(multi);
}

static void timer_expired(evutil_socket_t fd, short what, void *arg) {
  int running;
  (void)fd;
  (void)what;
  (void)arg;
  curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running);
  rctx_curl_finish_done(multi);
}

static void loop_readable(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  (void)arg;
  rctx_loop_drain(loop, 4);
}

static int watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg) {
  struct reactor *reactor = arg;
  struct event *event = socket_arg;
  (void)easy;
  if (event) event_free(event);
  event = NULL;
  if (what != CURL_POLL_REMOVE) {
    short flags = (short)((what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0) | EV_PERSIST);
    event = event_new(reactor->base, fd, flags, socket_ready, NULL);
    event_add(event, NULL);
  }
  curl_multi_assign(multi, fd, event);
  return 0;
}

static int set_timer(CURLM *of, long timeout_ms, void *arg) {
  struct reactor *reactor = arg;
  struct timeval after = {.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000};
  (void)of;
  if (timeout_ms < 0)
    event_del(reactor->timer);
  else
    event_add(reactor->timer, &after);
  return 0;
}

static void reactor_open(struct reactor *reactor) {
  reactor->base = event_base_new();
  reactor->timer = event_new(reactor->base, -1, 0, timer_expired, NULL);
  reactor->drained = event_new(reactor->base, rctx_loop_fd(loop), EV_READ | EV_PERSIST, loop_readable, NULL);
  event_add(reactor->drained, NULL);
  curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
  curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, reactor);
  curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, set_timer);
  curl_multi_setopt(multi, CURLMOPT_TIMERDATA, reactor);
}

static void reactor_close(struct reactor *reactor) {
  curl_multi_cleanup(multi); // its idle connections leave the reactor first
  multi = curl_multi_init(); // for the suite's end
  event_free(reactor->timer);
  event_free(reactor->drained);
  event_base_free(reactor->base);
}

Test(multi, works_on_an_event_loop_with_socket_actions__CURL_1) {
  static struct job jobs[20];
  struct reactor reactor;
  struct canceller canceller = {.requests = 20};
  unsigned over = 0;
  RCTX_SCOPED rctx *half = rctx_with_cancel(rctx_background());
  reactor_open(&reactor);
  for (int i = 0; i < 20; i++)
    job_open_started(&jobs[i], i % 2 ? rctx_background() : half, i % 2 ? "/slow?ms=100" : "/never");
  canceller.ctx = half;
  threads_start(&canceller.threads, 1, cancel_when_requested, &canceller);
  while (over < 20) {
    event_base_loop(reactor.base, EVLOOP_ONCE);
    over = 0;
    for (int i = 0; i < 20; i++) over += jobs[i].ends;
  }
  threads_join(&canceller.threads);
  for (int i = 0; i < 20; i++) {
    cr_assert_eq(jobs[i].ends, 1);
    cr_assert_eq(jobs[i].result, i % 2 ? CURLE_OK : CURLE_ABORTED_BY_CALLBACK);
    job_close(&jobs[i]);
  }
  reactor_close(&reactor);
}

// ---- telling the other side -----------------------------------------------------------------------------------------

TestSuite(timeout_header, .init = open_all, .fini = close_all, .timeout = 120);

Test(timeout_header, says_what_is_left_rounded_down_less_the_reserve) {
  char text[RCTX_CURL_TIMEOUT_HEADER_MAX];
  long ms;
  RCTX_SCOPED rctx *ctx = rctx_with_timeout(rctx_background(), 3600 * 1000 * MS);
  int length = rctx_curl_timeout_header(ctx, 600 * 1000 * MS, text, sizeof text);
  cr_assert_eq((size_t)length, strlen(text));
  cr_assert_eq(sscanf(text, "x-request-timeout-ms: %ld", &ms), 1);
  cr_assert(ms < 3000 * 1000 && ms > 2900 * 1000, "%s", text);
  char tight[32];
  cr_assert_eq(rctx_curl_timeout_header(ctx, 0, tight, (size_t)length), -ENOSPC);
  cr_assert_eq(rctx_curl_timeout_header(ctx, 0, tight, 0), -ENOSPC);
  cr_assert_eq(rctx_curl_timeout_header(ctx, -1, text, sizeof text), -EINVAL);
}

static int64_t stopped_now(void *arg) { return *(int64_t *)arg; }

Test(timeout_header, rounds_down_to_the_nanosecond) {
  rctx_manager *manager;
  int64_t now = 1000 * MS;
  char text[RCTX_CURL_TIMEOUT_HEADER_MAX];
  struct rctx_manager_options options = {.drive = RCTX_DRIVE_EMBEDDER, .now = stopped_now, .now_arg = &now};
  cr_assert_eq(rctx_manager_create(&options, &manager), 0);
  rctx *ctx = rctx_with_deadline(rctx_manager_background(manager), now + 10 * MS);
  cr_assert_gt(rctx_curl_timeout_header(ctx, 0, text, sizeof text), 0);
  cr_assert_str_eq(text, "x-request-timeout-ms: 10");
  now++;
  cr_assert_gt(rctx_curl_timeout_header(ctx, 0, text, sizeof text), 0);
  cr_assert_str_eq(text, "x-request-timeout-ms: 9");
  cr_assert_gt(rctx_curl_timeout_header(ctx, 9 * MS - 1, text, sizeof text), 0);
  cr_assert_str_eq(text, "x-request-timeout-ms: 1");
  cr_assert_eq(rctx_curl_timeout_header(ctx, 9 * MS, text, sizeof text), -ETIMEDOUT);
  cr_assert_eq(rctx_curl_timeout_header(ctx, INT64_MAX, text, sizeof text), -ETIMEDOUT);
  cr_assert_str_eq(text, "x-request-timeout-ms: 1", "written only on success");
  now += 10 * MS;
  cr_assert_eq(rctx_curl_timeout_header(ctx, 0, text, sizeof text), -ETIMEDOUT, "not marked yet, and over");
  rctx_end(ctx);
  cr_assert_eq(rctx_manager_destroy(manager), 0);
}

Test(timeout_header, is_none_without_a_deadline_and_an_error_after_the_end) {
  char text[RCTX_CURL_TIMEOUT_HEADER_MAX] = "left as it was";
  RCTX_SCOPED rctx *ctx = rctx_with_cancel(rctx_background());
  rctx_cancel(ctx);
  cr_assert_eq(rctx_curl_timeout_header(ctx, 0, text, sizeof text), -ECANCELED);
  cr_assert_str_eq(text, "left as it was");
  cr_assert_eq(rctx_curl_timeout_header(rctx_background(), 0, text, sizeof text), 0);
  cr_assert_str_eq(text, "");
}

// Sends what is left; returns what the server was told.
static long told(const rctx *ctx, const char *path) {
  char text[RCTX_CURL_TIMEOUT_HEADER_MAX];
  size_t bytes = 0;
  CURL *easy = easy_for(path, &bytes);
  cr_assert_gt(rctx_curl_timeout_header(ctx, 0, text, sizeof text), 0);
  struct curl_slist *headers = curl_slist_append(NULL, text);
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
  cr_assert_eq(rctx_curl_perform(ctx, easy, NULL), CURLE_OK);
  curl_easy_cleanup(easy);
  curl_slist_free_all(headers);
  return slow_server_told_ms(server);
}

Test(timeout_header, a_retry_sends_the_rest) {
  RCTX_SCOPED rctx *ctx = rctx_with_timeout(rctx_background(), 30000 * MS);
  long first = told(ctx, "/slow?ms=50&status=503"), second = told(ctx, "/quick");
  cr_assert(first > 0 && first <= 30000);
  cr_assert(second > 0 && second <= first - 49, "first %ld, then %ld", first, second);
}
