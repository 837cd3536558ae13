"""What soak.py expects, apart from how it makes it happen: which answers are right, what may be left, how much memory may grow.

Everything here is arithmetic on what was seen; test_soak.py shows that it finds what is wrong.
"""
import bisect
import json
import re
import threading

SERVICES_PATTERN = re.compile(r"[0-9a-f]{32}")
EARLY_MS = 7      # the gateway keeps 5 ms back for the way home, and rounds two times to whole milliseconds
AFTER_MS = 1500   # so long after a fault its effects may still be seen: refused connections, calls that were under way
MIB = 1 << 20
HEAP_MAX, RCTX_MAX = 1 * MIB, 1 * MIB        # growth, when idle, from the end of the warm-up to the end of the run
RESIDENT_FACTOR, RESIDENT_SPARE = 1.25, 8 * MIB

# Which faults explain which answer. Of the gateway that was asked, or (upstream) of any of those it calls.
EXPLAINS = {
    502: {"failing", "kill upstream", "stop upstream", "out of fds"},
    503: {"restart"},
    0: {"restart", "out of fds"},  # no answer at all
}


class Windows:
    """When which fault was in force: (kind, whom, begin, end or None), in us. whom: a gateway's name, or None for upstreams."""

    def __init__(self):
        self.lock, self.all = threading.Lock(), []

    def begin(self, kind, whom, now_us):
        with self.lock:
            self.all.append([kind, whom, now_us, None])
            return self.all[-1]

    @staticmethod
    def end(window, now_us):
        window[3] = now_us

    def explain(self, kinds, whom, begin_us, end_us):
        with self.lock:
            return any(kind in kinds and its_whom in (None, whom) and begin <= end_us
                       and (end is None or end + AFTER_MS * 1000 >= begin_us)
                       for kind, its_whom, begin, end in self.all)

    def times(self, kinds):
        """When any of these faults was in force, whoever it was."""
        with self.lock:
            return Times((begin, float("inf") if end is None else end) for kind, _, begin, end in self.all if kind in kinds)

    def counts(self):
        with self.lock:
            kinds = [kind for kind, *_ in self.all]
        return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


class Times:
    """Spans of time, for many questions."""

    def __init__(self, spans):
        self.begins, self.ends = [], []
        for begin, end in sorted(spans):
            if self.ends and begin <= self.ends[-1]:
                self.ends[-1] = max(self.ends[-1], end)
            else:
                self.begins.append(begin)
                self.ends.append(end)

    def overlap(self, begin, end):
        last = bisect.bisect_right(self.begins, end) - 1
        return last >= 0 and self.ends[last] >= begin


class Ask:
    """What a client of the soak expects. statuses: what it gets without faults; any_body: not the gateway's own JSON."""

    def __init__(self, statuses=(200,), timeout_ms=1000, any_trace=False, any_body=False):
        self.statuses, self.timeout_ms, self.any_trace, self.any_body = statuses, timeout_ms, any_trace, any_body


def body_fault(client, ask, services):
    """What is wrong with the text of an answer, or None."""
    try:
        body = json.loads(client.body())
    except ValueError:
        return "no JSON"
    trace = body.get("trace_id", "")
    if not (SERVICES_PATTERN.fullmatch(trace) if ask.any_trace else trace == client.trace_id):
        return f"another's trace id: {trace!r}"
    if client.status == 200 and {name: body.get(name, {}).get("service") for name in services} != {n: n for n in services}:
        return "not the three services' answers"
    if client.status != 200 and not body.get("error"):
        return "no error named"
    return None


def answer_fault(client, ask, gateway, windows, services, now_us):
    """What is wrong with an answer, or None. A client that left wants none."""
    if client.left_us:
        return None
    end_us = client.answered_us or now_us
    status = client.status
    if status in ask.statuses:
        return None if ask.any_body or status == 0 else body_fault(client, ask, services)
    if status == 504:
        took_ms = (client.answered_us - client.sent_us) / 1000
        if took_ms < ask.timeout_ms - EARLY_MS:
            return f"504 after {took_ms:.1f} ms of {ask.timeout_ms}"
        return body_fault(client, ask, services)
    if windows.explain(EXPLAINS.get(status, ()), gateway, client.sent_us or end_us, end_us):
        return body_fault(client, ask, services) if status and not ask.any_body else None
    return f"status {status} without a fault that explains it {client.error}"


def memory_faults(lulls):
    """lulls: what was idle after the warm-up, ..., at the end: heap, rctx, resident in bytes."""
    if len(lulls) < 2:
        yield "the memory was looked at less than twice"
        return
    first, last = lulls[0], lulls[-1]
    for key, name, limit in (("heap", "malloc has handed out", first["heap"] + HEAP_MAX),
                             ("rctx", "rctx holds", first["rctx"] + RCTX_MAX),
                             ("resident", "resident", first["resident"] * RESIDENT_FACTOR + RESIDENT_SPARE)):
        if last[key] > limit:
            yield (f"memory grew: {name} {last[key] / MIB:.1f} MiB when idle at the end, {first[key] / MIB:.1f} after the "
                   f"warm-up (at most {limit / MIB:.1f})")


def leftovers(idle, baseline):
    """What is left of an idle gateway, by name, each 0 if all is well. The server's own context is not left over."""
    return {"contexts": idle["contexts"] - 1, "contexts shown": idle["shown"] - 1, "timers": idle["timers"],
            "callbacks": idle["callbacks"], "fds": idle["fds"] - baseline["fds"],
            "threads": idle["threads"] - baseline["threads"]}
