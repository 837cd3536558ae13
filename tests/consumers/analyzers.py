#!/usr/bin/env python3
"""What static analyzers say about handles: each mistake is reported as what it is, and right code beside it is left in peace.

    analyzers.py INCLUDE_DIRECTORY    runs gcc-12 -fanalyzer and clang-14 --analyze; one that is not there is skipped

Every function that derives is tried with every mistake and every right way, all in one source file: a function of it is named
CASE__DERIVER. What an analyzer of this version does not see, or reports though it is right, is listed below as known and
asserted, too: when a new version does better, this says so.

And without RCTX_LEAK_SITES nothing of the run-time part (leaks.h) is compiled in.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

INCLUDE = sys.argv[1]
HEAD = """
#include <rctx/rctx.h>
#include <stdlib.h>
RCTX_KEY(user, const char *)
extern const struct rctx_key key;
extern const struct rctx_cause cause;
extern const struct rctx_spec spec;
extern const struct rctx_value values[2];
int look(const rctx *c);
void take(rctx *c);
struct holder { rctx *c; };
extern rctx *global;
struct from {
  const rctx *parent; rctx_manager *manager; rctx_drain *drain; int flag; rctx *own, **out; struct holder *holder;
};
"""
DERIVERS = {
    "rctx_with_cancel": "rctx_with_cancel(f->parent)",
    "rctx_with_timeout": "rctx_with_timeout(f->parent, 1000)",
    "rctx_with_timeout_at": "rctx_with_timeout_at(f->parent, 1, 1000)",
    "rctx_with_timeout_cause": "rctx_with_timeout_cause(f->parent, 1000, &cause)",
    "rctx_with_deadline": "rctx_with_deadline(f->parent, 1000)",
    "rctx_with_deadline_cause": "rctx_with_deadline_cause(f->parent, 1000, &cause)",
    "rctx_without_cancel": "rctx_without_cancel(f->parent)",
    "rctx_derive": "rctx_derive(f->parent, &spec)",
    "rctx_with_value": "rctx_with_value(f->parent, &key, f)",
    "rctx_with_values": "rctx_with_values(f->parent, values, 2)",
    "typed_key_with": 'user_with(f->parent, "ann")',
    "rctx_with_signal": "rctx_with_signal(f->parent, 15, 2, 0)",
    "rctx_with_signals": "rctx_with_signals(f->parent, (int[]){15, 2}, 2)",
    "rctx_drain_request": "rctx_drain_request(f->drain, NULL)",
    "rctx_manager_create_cancellable": "rctx_manager_create_cancellable(f->manager, f->parent)",
    "rctx_manager_create_timeout": "rctx_manager_create_timeout(f->manager, f->parent, 1000)",
    "rctx_manager_add_value": "rctx_manager_add_value(f->manager, f->parent, &key, f)",
}
# Body, and what must be said about it: one of these.
MISTAKES = {
    "lost_in_a_branch": ("rctx *c = DERIVE; if (f->flag) rctx_end(c); return 0;", "leak"),
    "lost_by_an_early_return": ("rctx *c = DERIVE; if (f->flag) return -1; rctx_end(c); return 0;", "leak"),
    "lost_by_a_break": ("for (;;) { rctx *c = DERIVE; if (look(c)) break; rctx_end(c); } return 0;", "leak"),
    "lost_when_another_takes_its_place": ("rctx *c = DERIVE; look(c); c = DERIVE; look(c); rctx_end(c); return 0;", "leak"),
    "lost_beside_another": ("rctx *c = DERIVE; rctx *d = rctx_with_cancel(c); rctx_end(d); return 0;", "leak"),
    "ended_twice": ("rctx *c = DERIVE; rctx_end(c); rctx_end(c); return 0;", "twice"),
    "ended_and_dropped": ("rctx *c = DERIVE; rctx_end(c); rctx_drop(c); return 0;", "twice or used"),
    "ended_again_in_a_branch": ("rctx *c = DERIVE; if (f->flag) rctx_end(c); rctx_end(c); return 0;", "twice"),
    "looked_at_after_its_end": ("rctx *c = DERIVE; rctx_end(c); return look(c);", "used"),
    "derived_from_after_its_end": ("rctx *c = DERIVE; rctx_end(c); rctx_end(rctx_with_cancel(c)); return 0;", "used"),
    "its_error_read_after_its_end": ("rctx *c = DERIVE; rctx_end(c); return rctx_err(c);", "used"),
    "freed": ("rctx *c = DERIVE; free(c); return 0;", "freed"),
}
RIGHT = {
    "ended": "rctx *c = DERIVE; look(c); rctx_end(c); return 0;",
    "ended_with_a_cause": "rctx *c = DERIVE; rctx_end_cause(c, &cause); return 0;",
    "cancelled_and_ended": "rctx *c = DERIVE; rctx_cancel(c); rctx_end(c); return 0;",
    "dropped": "rctx *c = DERIVE; rctx_drop(c); return 0;",
    "ended_on_each_way": "rctx *c = DERIVE; if (look(c)) { rctx_end(c); return -1; } rctx_end(c); return 0;",
    "ended_at_a_label": "int r = -1; rctx *c = DERIVE; if (look(c)) goto out; r = 0; out: rctx_end(c); return r;",
    "ended_in_a_loop": "for (int i = 0; i < f->flag; i++) { rctx *c = DERIVE; look(c); rctx_end(c); } return 0;",
    "ended_from_the_inside": "rctx *c = DERIVE; rctx *d = rctx_with_cancel(c); rctx_end(d); rctx_end(c); return 0;",
    "scoped": "RCTX_SCOPED rctx *c = DERIVE; if (look(c)) return -1; return look(c);",
    "scoped_twice": "RCTX_SCOPED rctx *c = DERIVE; RCTX_SCOPED rctx *d = rctx_with_cancel(c); return look(d);",
    "returned": "f->flag = 1; return DERIVE;",
    "returned_later": "rctx *c = DERIVE; look(c); return c;",
    "handed_over": "rctx *c = DERIVE; take(c); return 0;",
    "stored": "rctx *c = DERIVE; look(c); f->own = c; return 0;",
    "stored_at_once": "f->own = DERIVE; return 0;",
    "stored_in_an_object_that_is_stored": "struct holder *h = malloc(sizeof *h); if (!h) return -1; h->c = DERIVE; "
                                          "f->holder = h; return 0;",
    "stored_globally": "global = DERIVE; return 0;",
    "stored_through_a_parameter": "*f->out = DERIVE; return 0;",
    "stored_in_what_a_parameter_points_to": "f->holder->c = DERIVE; return 0;",
    "read_through_a_reference": "rctx *c = DERIVE; const rctx *r = rctx_ref(c); rctx_end(c); int e = look(r); rctx_unref(r); return e;",
}
# Right, and yet: analyzers take rctx_unref() for a reference's end, not a handle's (docs/adr/0011-end-drop-unref.md).
REPORTED_THOUGH_RIGHT = {"unreferenced": "rctx *c = DERIVE; rctx_unref(c); return 0;"}


class Gcc:
    name = "gcc-12"
    # -O0: optimised, it loses track. -Wall brings -Wuse-after-free.
    command = ["gcc-12", "-std=gnu11", "-O0", "-Wall", "-fanalyzer", "-c", "-o", os.devnull]
    kinds = {"leak": "-Wanalyzer-malloc-leak", "twice": "-Wanalyzer-double-free", "used": "use-after-free",
             "freed": "-Wanalyzer-mismatching-deallocation"}
    # The typed key's function is inline and not annotated: a handle that is overwritten is not traced through it.
    blind = {"lost_when_another_takes_its_place": ["typed_key_with"]}
    # Taken for lost when what it is stored in is two pointers away from a parameter; with malloc() it is the same.
    cries_wolf = {"stored_through_a_parameter": "*", "stored_in_what_a_parameter_points_to": "*"}

    @staticmethod
    def diagnostics(said, _):
        """(function, text) for each warning: gcc names the function whenever it changes."""
        function = None
        for line in said.splitlines():
            found = re.search(r"In function '(\w+)'", line)
            if found:
                function = found[1]
            if "warning:" in line:
                yield function, line


class Clang:
    name = "clang-14"
    command = ["clang-14", "-std=gnu11", "--analyze", "-Xclang", "-analyzer-config", "-Xclang",
               "unix.DynamicMemoryModeling:Optimistic=true", "-o", os.devnull]
    kinds = {"leak": "Potential leak", "twice": "Attempt to free released memory", "used": "Use of memory after it is freed",
             "freed": "unix.MismatchedDeallocator"}
    blind = {"freed": "*"}  # it knows no families of owners but malloc's
    cries_wolf = {"scoped": "*", "scoped_twice": "*"}  # it does not follow the cleanup attribute

    @staticmethod
    def diagnostics(said, functions_by_line):
        """(function, text) for each warning: by its line."""
        for line in said.splitlines():
            found = re.match(r"[^:]+\.c:(\d+):\d+: warning:", line)
            if found:
                yield functions_by_line.get(int(found[1])), line


failures = 0


def require(condition, what, said=""):
    global failures
    if not condition:
        failures += 1
        print(f"FAILED: {what}\n{said}".rstrip())


def write_source(directory):
    """One function a line. Returns the path and the function of each line."""
    path = os.path.join(directory, "handles.c")
    lines = HEAD.split("\n")
    functions = {}
    for deriver, expression in DERIVERS.items():
        bodies = {case: body for case, (body, _) in MISTAKES.items()} | RIGHT | REPORTED_THOUGH_RIGHT
        for case, body in bodies.items():
            function = f"{case}__{deriver}"
            result = "rctx *" if case.startswith("returned") else "int "
            lines.append(f"{result}{function}(struct from *f);")
            lines.append(f"{result}{function}(struct from *f) {{ {body.replace('DERIVE', expression)} }}")
            functions[len(lines)] = function
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return path, functions


def blind_to(table, case, deriver):
    return deriver in table.get(case, ()) or "*" in table.get(case, ())


def check(analyzer, path, functions):
    done = subprocess.run([*analyzer.command, "-I" + INCLUDE, path], capture_output=True, text=True, check=False,
                          env={**os.environ, "LC_ALL": "C"})
    require(done.returncode == 0, f"{analyzer.name} ends with {done.returncode}", done.stderr)
    said = {}
    for function, text in analyzer.diagnostics(done.stderr, functions):
        said.setdefault(function, []).append(text)
    for deriver in DERIVERS:
        for case, (_, kind) in MISTAKES.items():
            texts = said.get(f"{case}__{deriver}", [])
            wanted = [analyzer.kinds[k] for k in kind.split(" or ")]
            seen = any(text for text in texts if any(k in text for k in wanted))
            if blind_to(analyzer.blind, case, deriver):
                require(not seen, f"{analyzer.name} now sees {case} of {deriver}: take it off the list of what it does not")
            else:
                require(seen, f"{analyzer.name}: {case} of {deriver}: no warning of the kind '{kind}'", "\n".join(texts))
        for case in RIGHT | REPORTED_THOUGH_RIGHT:
            texts = said.get(f"{case}__{deriver}", [])
            if case in REPORTED_THOUGH_RIGHT or blind_to(analyzer.cries_wolf, case, deriver):
                require(texts, f"{analyzer.name} no longer reports {case} of {deriver}: take it off the list")
            else:
                require(not texts, f"{analyzer.name}: {case} of {deriver} is right, and yet", "\n".join(texts))


def check_nothing_compiled_in(directory):
    """leaks.h: without the macro no reference to its functions; with it there is one."""
    path = os.path.join(directory, "plain.c")
    out = os.path.join(directory, "plain.o")
    with open(path, "w", encoding="utf-8") as file:
        calls = "".join(f"  rctx_end({expression});\n" for expression in DERIVERS.values())
        file.write(f"{HEAD}void all(struct from *f);\nvoid all(struct from *f) {{\n{calls}}}\n")
    for compiler in ("gcc", "gcc-12", "clang-14"):
        if not shutil.which(compiler) or not shutil.which("nm"):
            continue
        for level in ("-O0", "-O2"):
            for macro, wanted in (([], False), (["-DRCTX_LEAK_SITES"], True)):
                command = [compiler, "-std=gnu11", level, *macro, "-I" + INCLUDE, "-c", "-o", out, path]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                require(done.returncode == 0, f"{compiler} {level} {macro}", done.stderr)
                names = subprocess.run(["nm", "-u", out], capture_output=True, text=True, check=False).stdout
                require(("rctx__leak" in names) == wanted, f"{compiler} {level} {macro}: references to rctx__leak*", names)


def main():
    found = 0
    with tempfile.TemporaryDirectory() as directory:
        path, functions = write_source(directory)
        for analyzer in (Gcc, Clang):
            if not shutil.which(analyzer.command[0]):
                print(f"skipped: {analyzer.name} is not here")
                continue
            found += 1
            print(f"checking: {analyzer.name}, {len(functions)} functions")
            check(analyzer, path, functions)
        check_nothing_compiled_in(directory)
    require(found, "no analyzer at all")
    return failures != 0


if __name__ == "__main__":
    sys.exit(main())
