/*
 * probes.h - places where a tracer may look (USDT): a nop and a note in the file, if <sys/sdt.h> was there at configure
 * time (RCTX_PROBES); otherwise nothing. What each says is in rctx/observe.h. None stands in the way of a leaf that ends.
 */
#ifndef RCTX_CORE_PROBES_H
#define RCTX_CORE_PROBES_H

#ifndef RCTX_PROBES
#define RCTX_PROBES 0
#endif

#if RCTX_PROBES
#include <sys/sdt.h>
#define PROBE_2(name, a, b) DTRACE_PROBE2(rctx, name, a, b)
#define PROBE_3(name, a, b, c) DTRACE_PROBE3(rctx, name, a, b, c)
#else
#define PROBE_2(name, a, b) ((void)0)
#define PROBE_3(name, a, b, c) ((void)0)
#endif

#endif
