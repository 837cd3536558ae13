"""Bugs planted in a copy of core/, one at a time: the harness named must find each, or it proves nothing. For run.py."""
import glob
import os
import shutil
import subprocess
import time

COPY = os.path.join("build", "planted")
COPIED = ("core", "include", "cmake", "fuzz", "tests", "CMakeLists.txt", "CMakePresets.json")
JOBS = os.environ.get("RCTX_JOBS") or str(os.cpu_count() or 1)

# harness, what is wrong, file of core/, the text there, what stands there instead.
PLANTED = [
    ("ops", "a context's own deadline, passed with its parent's, does not count", "tree.c",
     "if (unlikely(how & STATE_TIMED_OUT) && (child->own & OWN_DEADLINE) &&",
     "if (unlikely(how & STATE_TIMED_OUT) && (child->own & OWN_DEADLINE) && false &&"),
    ("ops", "a cancelled context's timer stays armed", "tree.c",
     "    rctx__timer_disarm(node);\n    if (unlikely(s & STATE_NOTIFY)) pin_for_notice(node, walk);",
     "    if (unlikely(s & STATE_NOTIFY)) pin_for_notice(node, walk);"),
    ("race", "a cancel that comes second does not help to mark", "tree.c",
     "    rctx__finish(node, 0); /* help to mark what is below */\n    return false;", "    return false;"),
    ("race", "what another walk stands on is freed at once", "tree.c",
     "return unlikely(rctx__done(parent_state)) && !(parent_state & STATE_WALKED);", "return false && parent_state;"),
    ("timers", "a deadline that was moved later comes when it was to come before", "timer.c",
     "if (tick <= to) return false;", "if (tick <= to || to > 0) return false;"),
    ("wheel", "an entry that cascades comes at once", "wheel.c",
     "if (entry->tick <= wheel->now) return entry;", "if (entry->tick <= wheel->now + 1) return entry;"),
    ("grpc_timeout", "a time of zero is taken", "propagate/codec.c",
     "if (sum == 0) return RCTX_FAULT_ZERO;", ""),
    ("received", "of a header that comes twice the first counts", "propagate/received.c",
     "    found->fault = RCTX_FAULT_DUPLICATE;\n", ""),
    ("traceparent", "anything may follow a higher version", "propagate/traceparent.c",
     "if (value.length > LENGTH && at[LENGTH] != '-') return RCTX_FAULT_SYNTAX;", ""),
    ("tracestate", "a key may come twice", "propagate/tracestate.c",
     "if (find_key(list, key)) return RCTX_FAULT_DUPLICATE;", ""),
    ("baggage", "surrogates are characters", "propagate/baggage.c",
     "if (first == 0xed) return (struct follow){2, 0x80, 0x9f};", ""),
    ("baggage", "a byte is read behind the text", "propagate/baggage.c",
     "if (c == '%' && rest->length >= 3) {", "if (c == '%') {"),
    ("dump", "a label's entities are left as they are", "observe.c",
     "if (text[i] == '&') {", "if (text[i] == '&' && out->err) {"),
    ("log", "C1 control characters are written as they are", "text.h",
     "if (length == 2 && text[0] == 0xc2 && text[1] < 0xa0) return rctx__escape_code(text[1], out);", ""),
]


def copy_sources():
    os.makedirs(COPY, exist_ok=True)
    shutil.rmtree(os.path.join(COPY, "build", "corpus"), ignore_errors=True)
    for name in COPIED:
        to = os.path.join(COPY, name)
        if os.path.isdir(name):
            shutil.rmtree(to, ignore_errors=True)
            shutil.copytree(name, to, copy_function=shutil.copy)  # as new: what the last run planted is built anew
        else:
            shutil.copy(name, to)


def build(harness):
    built = subprocess.run(["cmake", "--build", "build/fuzz", "-j", JOBS, "--target", harness], cwd=COPY,
                           capture_output=True, text=True, check=False)
    if built.returncode != 0:
        print(built.stdout[-4000:])
    return built.returncode == 0


def is_found(harness, seconds):
    """Fuzzes from the committed corpus. What it finds stays in the copy."""
    seeds = os.path.abspath(os.path.join("fuzz", "corpus", harness))
    fresh = os.path.join("build", "corpus", harness)  # the first is written to
    os.makedirs(os.path.join(COPY, fresh), exist_ok=True)
    log = os.path.join(COPY, "build", harness + ".log")
    for old in glob.glob(os.path.join(COPY, "build", "found-*")):
        os.remove(old)
    with open(log, "wb") as output:
        run = subprocess.run(["build/fuzz/fuzz/" + harness, f"-max_total_time={seconds}", "-timeout=20",
                              "-artifact_prefix=build/found-", fresh, *([seeds] if os.path.isdir(seeds) else [])],
                             cwd=COPY, stdout=output, stderr=subprocess.STDOUT, check=False)
    return run.returncode != 0 and bool(glob.glob(os.path.join(COPY, "build", "found-*")))


def find_one(plant, seconds):
    harness, what, name, text, instead = plant
    path, original = os.path.join(COPY, "core", name), os.path.join("core", name)
    with open(original, encoding="utf-8") as file:
        source = file.read()
    if source.count(text) != 1:
        return "FAILED: core/" + name + " has changed: fuzz/planted.py", 0.0
    with open(path, "w", encoding="utf-8") as file:
        file.write(source.replace(text, instead))
    try:
        if not build(harness):
            return "FAILED: does not build", 0.0
        began = time.monotonic()
        found = is_found(harness, seconds)
        return "found" if found else "FAILED: NOT found", time.monotonic() - began
    finally:
        with open(path, "w", encoding="utf-8") as file:
            file.write(source)


def find_all(seconds):
    """Returns the exit code. The unchanged copy must be found in order, too: else everything is "found"."""
    copy_sources()
    configured = subprocess.run(["cmake", "--preset", "fuzz"], cwd=COPY, capture_output=True, text=True, check=False)
    if configured.returncode != 0:
        print(configured.stdout, configured.stderr)
        return 1
    failed = 0
    for harness in sorted({plant[0] for plant in PLANTED}):
        sound = build(harness) and not is_found(harness, 2)
        failed += not sound
        print(f"{harness:<14}{'':>7}  {'sound' if sound else 'FAILED'}  without a bug", flush=True)
    for plant in PLANTED:
        verdict, took = find_one(plant, seconds)
        failed += verdict != "found"
        print(f"{plant[0]:<14}{took:6.1f} s  {verdict}: {plant[1]}", flush=True)
    print(f"\n{len(PLANTED)} bugs planted, {failed} failures")
    return 1 if failed else 0
