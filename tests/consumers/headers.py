#!/usr/bin/env python3
"""How the public headers compile: alone, strictly, as C++, and with the mistakes they must diagnose.

    headers.py INCLUDE_DIRECTORY COMPILER...    compilers that are not there are skipped; none at all is a failure
"""
import os
import shutil
import subprocess
import sys
import tempfile

INCLUDE = sys.argv[1]
HEADERS = sorted(name for name in os.listdir(os.path.join(INCLUDE, "rctx")) if name.endswith(".h"))
USE = """
#include <rctx/rctx.h>
RCTX_KEY(user, const char *)
RCTX_KEY(count, int)
RCTX_KEY_DECLARE(shared, long)
int use(void);
int use(void) {
  const char *who = 0;
  int n = 0;
  RCTX_SCOPED rctx *c = user_with(rctx_background(), "ann");
  RCTX_SCOPED rctx *d = count_with(c, 3);
  RCTX_SCOPED rctx *only_held = rctx_with_cancel(d);
  RCTX_SCOPED_REF const rctx *only_kept = rctx_ref(d);
  bool first = rctx_cancel(d);
  rctx_cancel_with(c, -ETIMEDOUT, RCTX_ORIGIN_PEER, "peer");
  rctx_end(rctx_with_timeout(c, RCTX_BUDGET(n)));
  return user_get(d, &who) && count_get(d, &n) && first ? rctx_err(d) : 0;
}
"""
BODY = "#include <rctx/rctx.h>\nvoid f(const rctx *ctx, rctx *own);\nvoid f(const rctx *ctx, rctx *own) { (void)ctx; (void)own; %s }\n"
# What the compiler must say something about, and beside it the right way, about which it must not.
MISTAKES = {
    "deriving from NULL": ("rctx_end(rctx_with_cancel(NULL));", "rctx_end(rctx_with_cancel(ctx));"),
    "a value under NULL": ("rctx_end(rctx_with_value(ctx, NULL, own));",
                           'static const struct rctx_key k = {"k", 0, 0}; rctx_end(rctx_with_value(ctx, &k, own));'),
    "the error of NULL": ("(void)rctx_err(NULL);", "(void)rctx_err(ctx);"),
    "cancelling NULL": ("rctx_cancel(NULL);", "rctx_cancel(own);"),
    "waiting for NULL": ("(void)rctx_wait(NULL, 0);", "(void)rctx_wait(ctx, 0);"),
    "a callback on NULL": ("struct rctx_after n; rctx_after(NULL, &n, 0, 0);", "rctx_unref(ctx);"),
    "cancelling what was only handed in": ("rctx_cancel((const rctx *)own);", "rctx_cancel(own);"),
    "cancelling through const": ("rctx_cancel(ctx);", "rctx_cancel(own);"),
    "ending through const": ("rctx_end(ctx);", "rctx_end(own);"),
    "dropping a derived handle on the floor": ("rctx_with_cancel(ctx);", "rctx_end(rctx_with_cancel(ctx));"),
}
TOO_WIDE = "#include <rctx/rctx.h>\nstruct wide { char text[17]; };\nRCTX_KEY(wide, struct wide)\n"

failures = 0


def compile_text(compiler, language, text, *flags):
    suffix = ".cc" if language == "c++" else ".c"
    with tempfile.NamedTemporaryFile("w", suffix=suffix, delete=False) as source:
        source.write(text)
    try:
        command = [compiler, "-x", language, "-c", "-o", os.devnull, "-I" + INCLUDE, *flags, source.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr
    finally:
        os.unlink(source.name)


def require(condition, what, said=""):
    global failures
    if not condition:
        failures += 1
        print(f"FAILED: {what}\n{said}")


def check_c(compiler):
    strict = ("-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wsign-conversion", "-Wstrict-prototypes",
              "-Wundef", "-Werror", "-O1")
    for standard in ("-std=c11", "-std=gnu11", "-std=gnu17"):
        for header in HEADERS:
            code, said = compile_text(compiler, "c", f"#include <rctx/{header}>\nint alone(void);\n", standard, *strict)
            require(code == 0, f"{compiler} {standard}: {header} alone", said)
        code, said = compile_text(compiler, "c", USE, standard, *strict)
        require(code == 0, f"{compiler} {standard}: ordinary use without a warning", said)
    for what, (wrong, right) in MISTAKES.items():
        code, said = compile_text(compiler, "c", BODY % wrong, "-std=gnu11", "-Wall", "-O1")
        require("warning:" in said or "error:" in said, f"{compiler}: {what} passes in silence", wrong)
        code, said = compile_text(compiler, "c", BODY % right, "-std=gnu11", "-Wall", "-Werror", "-O1")
        require(code == 0, f"{compiler}: {what}: the right way is diagnosed, too", said)
    code, said = compile_text(compiler, "c", TOO_WIDE, "-std=gnu11")
    require(code != 0 and "pointer-sized" in said, f"{compiler}: a key of a type that is too wide is refused", said)


def check_cxx(compiler):
    for standard in ("-std=c++11", "-std=c++17", "-std=c++20"):
        for header in HEADERS:
            code, said = compile_text(compiler, "c++", f"#include <rctx/{header}>\n", standard, "-Wall", "-Wextra",
                                      "-Wpedantic", "-Werror")
            require(code == 0, f"{compiler} {standard}: {header} alone", said)
        code, said = compile_text(compiler, "c++", USE, standard, "-Wall", "-Wextra", "-Werror")
        require(code == 0, f"{compiler} {standard}: ordinary use without a warning", said)


def main():
    found = 0
    for compiler in dict.fromkeys(sys.argv[2:]):
        if not shutil.which(compiler):
            print(f"skipped: {compiler} is not here")
            continue
        found += 1
        print(f"checking: {compiler}")
        (check_cxx if "++" in os.path.basename(compiler) else check_c)(compiler)
    require(found, "no compiler at all")
    return failures != 0


if __name__ == "__main__":
    sys.exit(main())
