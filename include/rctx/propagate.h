/*
 * rctx/propagate.h - headers that carry a request's deadline, trace and values from process to process.
 *
 *   grpc-timeout, x-request-timeout-ms, x-envoy-expected-rq-timeout-ms    the time that the caller still waits
 *   traceparent, tracestate                                              W3C trace context
 *   baggage                                                              W3C baggage
 *
 * Codecs only: no I/O, no allocation, no HTTP library. Texts come with their length and need no closing NUL; what is
 * written goes into the caller's buffer.
 *
 * Time on the wire is relative and measured anew each time it is sent: two clocks never meet. What a retry sends is
 * what is left at the retry. See also budget.h, and docs/guide/propagation.md.
 *
 * What holds for all of them:
 *   [WIRE-1] Any bytes may come in. Nothing outside a text is read, nothing loops or overflows, and the work is linear
 *            in the length of the text or stops at the limits below. What does not match a grammar exactly is refused,
 *            with a reason, as a whole (of baggage: member by member): never repaired, never used in part.
 *   [WIRE-2] A text is written as a whole, with a closing NUL, and its length without the NUL is returned; or nothing
 *            is written: -ENOSPC if @size is too small. What is written here is read again as the same here.
 *   [WIRE-3] Time is never gained: encoding rounds down, a reserve and a maximum only shorten, and a received time
 *            never makes a deadline later than the parent's.
 *   [WIRE-4] A context's value leaves the process only if its key says so (RCTX_KEY_PROPAGATED).
 * Threads: any; nothing is shared but the counters of rctx_fault_count(). Blocks: never.
 */
#ifndef RCTX_PROPAGATE_H
#define RCTX_PROPAGATE_H

#include <rctx/budget.h>
#include <rctx/value.h>

RCTX_BEGIN_DECLS

/* ---- texts and headers ------------------------------------------------------------------------------------------- */

/** struct rctx_text - bytes with a length. at may be NULL when length is 0. Borrowed, also as a result: it then points
 *  into what was handed in. */
struct rctx_text {
  const char *at;
  size_t length;
};

/** rctx_text_of - the text of a C string; of NULL, the empty one. */
static inline struct rctx_text rctx_text_of(const char *string) {
  struct rctx_text text = {string, string ? strlen(string) : 0};
  return text;
}

/** struct rctx_header - one received header. White space around the value is no part of it (RFC 9110, 5.5): the
 *  functions that take headers drop it, the codecs for single values refuse it. */
struct rctx_header {
  struct rctx_text name; /* compared without regard to ASCII case */
  struct rctx_text value;
};

/** struct rctx_cursor - a place in somebody's list of headers. All zero: before the first. */
struct rctx_cursor {
  const void *at;
  size_t index;
};

/**
 * struct rctx_headers - the received headers, wherever an HTTP library keeps them.
 *
 * @next: writes the header at the cursor and moves on; false when there is none left. The cursor belongs to @next,
 *        which gets it zeroed at first; the list is gone through more than once. Texts stay valid as long as the
 *        results are used.
 */
struct rctx_headers {
  bool (*next)(const struct rctx_headers *self, struct rctx_cursor *cursor, struct rctx_header *header);
  const void *list;
  size_t count;
};

/** rctx_headers_of - an array of headers. Borrowed. */
RCTX_API struct rctx_headers rctx_headers_of(const struct rctx_header *array, size_t count);

enum rctx_header_id {
  RCTX_HEADER_NONE = 0,
  RCTX_HEADER_GRPC_TIMEOUT,
  RCTX_HEADER_REQUEST_TIMEOUT_MS,
  RCTX_HEADER_ENVOY_TIMEOUT_MS, /* x-envoy-expected-rq-timeout-ms */
  RCTX_HEADER_TRACEPARENT,
  RCTX_HEADER_TRACESTATE,
  RCTX_HEADER_BAGGAGE,
  RCTX_HEADERS /* how many */
};

/** rctx_header_name - its name, in lower case as it is to be sent. NULL for other numbers. */
RCTX_API const char *rctx_header_name(enum rctx_header_id id);

/* ---- what is refused --------------------------------------------------------------------------------------------- */

/** Why a header, or a member of one, was refused. Where several hold, it is one of them. */
enum rctx_fault {
  RCTX_FAULT_NONE = 0,
  RCTX_FAULT_EMPTY,     /* nothing there */
  RCTX_FAULT_TOO_LONG,  /* more digits or characters than the grammar has */
  RCTX_FAULT_SYNTAX,    /* a character where the grammar has another: a sign, a space, a fraction, a capital */
  RCTX_FAULT_UNIT,      /* grpc-timeout: no unit, or none of H M S m u n */
  RCTX_FAULT_ZERO,      /* a time of 0, an id of zeros */
  RCTX_FAULT_VERSION,   /* traceparent: version ff */
  RCTX_FAULT_DUPLICATE, /* a header or key that may come once came twice, the same or not */
  RCTX_FAULT_LIMIT,     /* more members or bytes than the limits below */
  RCTX_FAULTS           /* how many */
};

/** rctx_fault_text - a few words for people; never NULL. */
RCTX_API const char *rctx_fault_text(enum rctx_fault fault);

/**
 * rctx_fault_count - how often this process refused such a header (of baggage: a member) for this reason.
 *
 * Counted by the functions that take struct rctx_headers, once for each header or list; codecs for single values count
 * nothing.
 * @fault: RCTX_FAULT_NONE for the sum over all reasons. Other numbers give 0. Relaxed counters: exact when nothing else
 *         runs.
 */
RCTX_API uint64_t rctx_fault_count(enum rctx_header_id header, enum rctx_fault fault);

/* Common to the decoders below: @fault may be NULL; else the reason is written there in any case, RCTX_FAULT_NONE on
 * success. */

/* ---- time: one value --------------------------------------------------------------------------------------------- */

#define RCTX_GRPC_TIMEOUT_SIZE 10 /* 8 digits, unit, NUL */
#define RCTX_TIMEOUT_MS_SIZE 11   /* 10 digits, NUL */

/**
 * rctx_grpc_timeout_encode - a duration as grpc-timeout: 1 to 8 digits and a unit.
 *
 * The finest unit in which 8 digits hold it, rounded down: "99999999n", then "100000u". 2562047H is the longest.
 *
 * Returns: the length; 0 for INT64_MAX: no limit, the header is not to be sent (nothing is written); -ETIMEDOUT for 0
 *          or less: the request is not to be sent; -ENOSPC.
 */
RCTX_API int rctx_grpc_timeout_encode(int64_t timeout_ns, char *buf, size_t size) RCTX_MUST_CHECK;

/** rctx_grpc_timeout_decode - 1*8DIGIT and one of H M S m u n, a positive number. Longer than int64_t holds (2562048H
 *  and more): INT64_MAX. Returns 0 or -EINVAL. */
RCTX_API int rctx_grpc_timeout_decode(struct rctx_text value, int64_t *timeout_ns, enum rctx_fault *fault)
    RCTX_NONNULL(2) RCTX_MUST_CHECK;

/** rctx_timeout_ms_encode - a duration in whole milliseconds, 1 to 10 digits: for x-request-timeout-ms, and for
 *  connect-timeout-ms and others of that form. Less than 1 ms: -ETIMEDOUT; more than 9999999999: that. Otherwise as
 *  rctx_grpc_timeout_encode(). */
RCTX_API int rctx_timeout_ms_encode(int64_t timeout_ns, char *buf, size_t size) RCTX_MUST_CHECK;

/** rctx_timeout_ms_decode - 1*10DIGIT, a positive number. Returns 0 or -EINVAL. A zero is refused as it is ambiguous:
 *  to some peers it means "expired", to others "no limit". */
RCTX_API int rctx_timeout_ms_decode(struct rctx_text value, int64_t *timeout_ns, enum rctx_fault *fault)
    RCTX_NONNULL(2) RCTX_MUST_CHECK;

/* ---- time: sending ----------------------------------------------------------------------------------------------- */

/**
 * rctx_grpc_timeout_from - what a request sent now below @ctx says of its time: rctx_budget(ctx, reserve_ns), encoded.
 *
 * To be called anew for each attempt, right before it is sent.
 *
 * @reserve_ns: kept back for the way there and back, so that this side still has time for an answer.
 * Returns: the length; 0: no deadline, no header; -ETIMEDOUT: nothing left, do not send; rctx_err() of a context that
 *          has ended; -ENOSPC.
 */
RCTX_API int rctx_grpc_timeout_from(const rctx *ctx, int64_t reserve_ns, char *buf, size_t size)
    RCTX_NONNULL(1) RCTX_MUST_CHECK;
RCTX_API int rctx_grpc_timeout_from_at(const rctx *ctx, int64_t now_ns, int64_t reserve_ns, char *buf, size_t size)
    RCTX_NONNULL(1) RCTX_MUST_CHECK;

/** rctx_timeout_ms_from - the same in milliseconds; less than 1 ms is nothing left. */
RCTX_API int rctx_timeout_ms_from(const rctx *ctx, int64_t reserve_ns, char *buf, size_t size)
    RCTX_NONNULL(1) RCTX_MUST_CHECK;
RCTX_API int rctx_timeout_ms_from_at(const rctx *ctx, int64_t now_ns, int64_t reserve_ns, char *buf, size_t size)
    RCTX_NONNULL(1) RCTX_MUST_CHECK;

/* ---- time: receiving --------------------------------------------------------------------------------------------- */

enum rctx_otherwise {
  RCTX_OTHERWISE_NONE = 0, /* no deadline but the parent's */
  RCTX_OTHERWISE_DEFAULT,  /* default_ns */
  RCTX_OTHERWISE_REJECT    /* an error is returned: answer that the request is bad */
};

/** struct rctx_budget_policy - what this server makes of a received time. All zero: takes any, and has no deadline
 *  without. */
struct rctx_budget_policy {
  int64_t max_ns;              /* a longer time, default_ns too, is cut to this; 0 or less: no maximum */
  int64_t min_ns;              /* with less of a received time left it is not worth beginning: -ETIMEDOUT; 0: none */
  int64_t default_ns;          /* for RCTX_OTHERWISE_DEFAULT; 0 or less: ended at once */
  enum rctx_otherwise absent;  /* no header that counts was there */
  enum rctx_otherwise invalid; /* there was one at least, but none that is valid */
  unsigned headers;            /* which count: 1U << RCTX_HEADER_... of the three, or'ed; 0: all three */
};

/** struct rctx_received - what was found. Written in any case but that of a NULL argument. */
struct rctx_received {
  int64_t timeout_ns;  /* granted by the caller or the policy; INT64_MAX: no limit, or more than 292 years */
  int64_t deadline_ns; /* the earlier of arrival + timeout_ns and the parent's; INT64_MAX: none. Never 0, so that it can
                                     stand in rctx_spec.deadline_ns as it is */
  enum rctx_header_id source; /* the header that counted; RCTX_HEADER_NONE: none did */
  enum rctx_header_id
      refused_id;          /* a header that was refused, or RCTX_HEADER_NONE; of several the first in precedence */
  enum rctx_fault refused; /* why */
  bool clamped;            /* it was longer than max_ns */
};

/**
 * rctx_budget_from_headers - the deadline of a request that has come in.
 *
 * The first valid of grpc-timeout, x-request-timeout-ms, x-envoy-expected-rq-timeout-ms counts, in this order and
 * whatever the order of the headers. One that is invalid or comes twice is counted (rctx_fault_count()) and treated as
 * absent.
 *
 * @parent:     borrowed; below it the request's context is going to be derived.
 * @arrival_ns: when the request's first byte was read, on the clock of @parent: time spent in queues of our own counts.
 * @policy:     NULL: all zero.
 * Returns: 0: go on, with received->deadline_ns; -ETIMEDOUT: less than min_ns is left, by what was received or, now, by received->
 *          deadline_ns: do not begin; -ENOENT, -EINVAL:
 *          RCTX_OTHERWISE_REJECT for an absent or an invalid header; -EINVAL also for a NULL argument.
 * Order:   [WIRE-3]. Cost: one pass over the headers.
 */
RCTX_API int rctx_budget_from_headers(const rctx *parent, int64_t arrival_ns, const struct rctx_headers *headers,
                                      const struct rctx_budget_policy *policy, struct rctx_received *received)
    RCTX_NONNULL(1, 3, 5) RCTX_MUST_CHECK;

/* ---- trace context: one value ------------------------------------------------------------------------------------ */

#define RCTX_TRACEPARENT_SIZE 56 /* 55 characters, NUL */

enum rctx_trace_flags {
  RCTX_TRACE_SAMPLED = 1, /* the caller may have recorded this request */
  RCTX_TRACE_RANDOM = 2   /* the last 7 bytes of the trace id are random. Stays as it is while the trace goes on */
};

/** struct rctx_traceparent - whose trace this is. A plain value: copy it, keep it under a key (RCTX_KEY). */
struct rctx_traceparent {
  uint8_t trace_id[16];
  uint8_t parent_id[8]; /* the span that sends: received, the caller's; to be sent, ours */
  uint8_t flags;        /* enum rctx_trace_flags; unknown ones are dropped on reading */
  uint8_t version;      /* as received; 0 is what is written */
};

/**
 * rctx_traceparent_parse - read "00-<32 hex>-<16 hex>-<2 hex>".
 *
 * Lower case only; ids of zeros are refused, and so is version ff. Version 00 has exactly 55 characters. A higher
 * version may go on behind them with a dash; what follows is not looked at.
 * Returns: 0 or -EINVAL: then the trace begins anew here, and tracestate must not be read. Cost: at most 56 characters
 *          are read.
 */
RCTX_API int rctx_traceparent_parse(struct rctx_text value, struct rctx_traceparent *trace, enum rctx_fault *fault)
    RCTX_NONNULL(2) RCTX_MUST_CHECK;

/** rctx_traceparent_format - write it, as version 00 and with the known flags only. Returns 55; -EINVAL: an id of
 *  zeros; -ENOSPC. */
RCTX_API int rctx_traceparent_format(const struct rctx_traceparent *trace, char *buf, size_t size)
    RCTX_NONNULL(1) RCTX_MUST_CHECK;

/** rctx_traceparent_next - the trace goes on with a span of our own: the same trace id and flags, @random as parent id.
 *  For each request that is sent one of its own. Returns 0; -EINVAL: @random is all zero, which no source of random
 *  bytes is to be expected to give. @next may be @received. */
RCTX_API int rctx_traceparent_next(const struct rctx_traceparent *received, const uint8_t random[8],
                                   struct rctx_traceparent *next) RCTX_NONNULL(1, 2, 3) RCTX_MUST_CHECK;

/** rctx_traceparent_start - begin a trace: 16 random bytes for its id, 8 for the span; flags RCTX_TRACE_RANDOM, and
 *  RCTX_TRACE_SAMPLED if said so. Returns 0; -EINVAL: the bytes of one of them are all zero. */
RCTX_API int rctx_traceparent_start(const uint8_t random[24], bool sampled, struct rctx_traceparent *trace)
    RCTX_NONNULL(1, 3) RCTX_MUST_CHECK;

#define RCTX_TRACESTATE_MEMBERS_MAX 32
#define RCTX_TRACESTATE_BYTES_MAX 8192 /* received, all headers together; a longer one is refused */
#define RCTX_TRACESTATE_SIZE 513       /* for 512 characters, which everybody should pass on, and a NUL */

/**
 * rctx_tracestate_check - 0 if this is a list of at most 32 members key=value with different keys, else -EINVAL.
 *
 * Key: a-z or 0-9, then up to 255 of a-z 0-9 _ - * / @. Value: 1 to 256 of printable ASCII without , and = and not
 * ending in a space. Spaces and tabs around members do not matter; empty members are no members.
 */
RCTX_API int rctx_tracestate_check(struct rctx_text state, enum rctx_fault *fault) RCTX_MUST_CHECK;

/** rctx_tracestate_find - the value of a key. Returns 0; -ENOENT: it is not in there; -EINVAL: as
 *  rctx_tracestate_check(). */
RCTX_API int rctx_tracestate_find(struct rctx_text state, struct rctx_text key, struct rctx_text *value)
    RCTX_NONNULL(3) RCTX_MUST_CHECK;

/**
 * rctx_tracestate_update - put our own member to the left of a received list, in place of an older one of the same key.
 *
 * Members keep their order; space around them and empty ones are left out. If @size or 32 members do not hold all,
 * whole members are left out: for want of space those of more than 128 characters first, the rightmost first, then any
 * from the right; for the number of members from the right. The own member stays.
 *
 * @state: received, or empty. One that is invalid is dropped: @fault says why, and our own member remains.
 *         RCTX_FAULT_LIMIT also if members were left out.
 * @key:   empty: none of our own, only the rules above. What is sent is kept to what older peers accept, too: a letter,
 *         then up to 255 of a-z 0-9 _ - * /; or tenant@system: a letter or digit and up to 240 of them, @, a letter and
 *         up to 13.
 * Returns: the length, 0 for an empty list (its NUL is written); -EINVAL: @key or @value is not of the grammar, nothing
 *          is written; -ENOSPC: not even our own member and a NUL fit, nothing is written. @buf must not overlap
 *          @state.
 */
RCTX_API int rctx_tracestate_update(struct rctx_text state, struct rctx_text key, struct rctx_text value, char *buf,
                                    size_t size, enum rctx_fault *fault) RCTX_MUST_CHECK;

/* ---- trace context: receiving ------------------------------------------------------------------------------------ */

/**
 * rctx_trace_from_headers - traceparent, and the tracestate headers joined into one list.
 *
 * @state: where the list goes, by the rules of rctx_tracestate_update() without a member of our own; NULL with a @size
 *         of 0: it is not wanted.
 * @fault: of traceparent if that is refused; else of tracestate: what made it be dropped, or RCTX_FAULT_LIMIT if it was
 *         shortened.
 * Returns: the length of the list, 0 if it is empty, refused or not wanted; -ENOENT: no traceparent; -EINVAL: it is
 *          invalid or comes twice. In both cases @trace is not written, @state is empty, tracestate has not been looked
 *          at, and a new trace begins.
 */
RCTX_API int rctx_trace_from_headers(const struct rctx_headers *headers, struct rctx_traceparent *trace, char *state,
                                     size_t size, enum rctx_fault *fault) RCTX_NONNULL(1, 2) RCTX_MUST_CHECK;

/* ---- baggage: reading -------------------------------------------------------------------------------------------- */

#define RCTX_BAGGAGE_MEMBERS_MAX 64
#define RCTX_BAGGAGE_BYTES_MAX 8192 /* all headers together, with the commas that join them */
#define RCTX_BAGGAGE_SIZE (RCTX_BAGGAGE_BYTES_MAX + 1)

/** struct rctx_baggage_member - one member as it is on the wire, without space around its parts. */
struct rctx_baggage_member {
  struct rctx_text key;        /* a token (RFC 9110) */
  struct rctx_text value;      /* still encoded: rctx_baggage_decode(). May be empty */
  struct rctx_text properties; /* what follows the first ';' or empty: rctx_baggage_property() */
};

/** struct rctx_baggage_reader - where reading stands. The caller's storage; made by rctx_baggage_read(). */
struct rctx_baggage_reader {
  const struct rctx_headers *headers; /* retained while reading */
  struct rctx_cursor cursor;
  struct rctx_text rest;
  size_t bytes;          /* read so far */
  unsigned members;      /* given out */
  unsigned refused;      /* skipped: not of the grammar */
  bool joined;           /* a header has been read: the next one is joined to it by a comma */
  bool cut;              /* stopped at a limit: there was more */
  enum rctx_fault fault; /* of the last one refused, or RCTX_FAULT_LIMIT */
};

/** rctx_baggage_read - begin to read the members of all baggage headers. @headers: borrowed until reading has ended. */
RCTX_API struct rctx_baggage_reader rctx_baggage_read(const struct rctx_headers *headers) RCTX_NONNULL(1);

/** rctx_baggage_read_text - the same for one value. */
RCTX_API struct rctx_baggage_reader rctx_baggage_read_text(struct rctx_text value);

/**
 * rctx_baggage_next - the next member, in the order they came, the same key more than once if it is there more than
 * once.
 *
 * A member that is not key=value or key=value;property;... of the grammar is skipped and counted. 64 members, and what
 * ends within the first 8192 bytes, are given out, whole; then reading stops. Returns false at the end.
 */
RCTX_API bool rctx_baggage_next(struct rctx_baggage_reader *reader, struct rctx_baggage_member *member)
    RCTX_NONNULL(1, 2);

/** rctx_baggage_property - take the first property off the properties of a member. Returns false when there is none, or
 *  it is not of the grammar. A property without '=' has a value with at == NULL. */
RCTX_API bool rctx_baggage_property(struct rctx_text *properties, struct rctx_text *key, struct rctx_text *value)
    RCTX_NONNULL(1, 2, 3);

/** rctx_baggage_decode - undo percent-encoding. What is no UTF-8 becomes U+FFFD, one for each longest piece that could
 *  begin a character; a '%' without two hex digits stays. The result may contain NUL bytes. Returns its length; -ENOSPC
 *  (a size of length + 1 is enough for any value that was read here); -EINVAL: more than RCTX_BAGGAGE_BYTES_MAX
 *  characters came in. */
RCTX_API int rctx_baggage_decode(struct rctx_text value, char *buf, size_t size) RCTX_MUST_CHECK;

/* ---- baggage: writing -------------------------------------------------------------------------------------------- */

/** struct rctx_baggage - a baggage header that is being written. The caller's storage; made by rctx_baggage_begin(). */
struct rctx_baggage {
  char *buf;        /* retained: the text, with a NUL after each call; empty: the header is not to be sent */
  size_t size;      /* of buf */
  size_t length;    /* of the text */
  unsigned members; /* in it */
  unsigned dropped; /* left out: for want of space, over the limits, or unfit */
};

/** rctx_baggage_begin - begin with an empty list. @size: RCTX_BAGGAGE_SIZE for all that the limits allow, less for
 *  less. */
RCTX_API struct rctx_baggage rctx_baggage_begin(char *buf, size_t size);

/** rctx_baggage_add - append a member. @value: any bytes, UTF-8 by agreement; encoded here. @properties: as they are to
 *  be on the wire, without the first ';'; empty: none. Returns 0; -ENOSPC: it does not fit the buffer or the limits and
 *  is left out as a whole; -EINVAL: @key is no token or @properties are not of the grammar. */
RCTX_API int rctx_baggage_add(struct rctx_baggage *out, struct rctx_text key, struct rctx_text value,
                              struct rctx_text properties) RCTX_NONNULL(1);

/** rctx_baggage_copy - append a member that was read, as it is. Returns as rctx_baggage_add(). */
RCTX_API int rctx_baggage_copy(struct rctx_baggage *out, const struct rctx_baggage_member *member) RCTX_NONNULL(1, 2);

/** rctx_baggage_forward - append all received members, in order; of those whose key was in @out before the call none:
 *  what we say ourselves replaces what was received. Returns how many were left out for want of space or over the
 *  limits; what came behind a limit of reading counts as one. */
RCTX_API unsigned rctx_baggage_forward(struct rctx_baggage *out, const struct rctx_headers *headers) RCTX_NONNULL(1, 2);

/**
 * rctx_baggage_add_values - append the visible values whose keys are marked RCTX_KEY_PROPAGATED, nearest first.
 *
 * The member's key is the name of the key, its value what the key's own print gives: strings and numbers have one. Left
 * out without being counted: a NULL under a key that is no number (it shadows, nothing is said); counted in
 * out->dropped: a key without print (an address means nothing elsewhere) or whose name is no token, and what does not
 * fit. Nothing is allocated.
 * Returns: how many were left out and counted.
 */
RCTX_API unsigned rctx_baggage_add_values(struct rctx_baggage *out, const rctx *ctx) RCTX_NONNULL(1, 2);

/** rctx_baggage_from - begin, rctx_baggage_add_values(), done. Returns the length; 0: nothing to send; -ENOSPC: @size
 *  is 0. @dropped: how many were left out; may be NULL. */
RCTX_API int rctx_baggage_from(const rctx *ctx, char *buf, size_t size, unsigned *dropped)
    RCTX_NONNULL(1) RCTX_MUST_CHECK;

RCTX_END_DECLS
#endif
