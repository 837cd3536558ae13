#!/usr/bin/env bash
# Installs the build in $1 and uses it as strangers do: pkg-config (shared, static), find_package; looks at the exported
# symbols. $2: C compiler, $3: C flags of this build.
set -euo pipefail
build=$1 compiler=$2 flags=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() { echo "install_test: $*" >&2; exit 1; }

cmake --install "$build" --prefix "$work/prefix" >"$work/log" || { cat "$work/log"; fail "install"; }
pc=$(dirname "$(find "$work/prefix" -name rctx.pc)")
lib=$(dirname "$(find "$work/prefix" -name librctx.so)")
sed -i "s|^prefix=.*|prefix=$work/prefix|; s|^libdir=.*|libdir=$lib|; s|^includedir=.*|includedir=$work/prefix/include|" "$pc"/rctx*.pc
export PKG_CONFIG_PATH=$pc LD_LIBRARY_PATH=$lib

cat >"$work/main.c" <<'END'
#include <rctx/base.h>
#include <string.h>
int main(void) { return strcmp(rctx_version_string(), RCTX_VERSION_STRING) != 0; }
END

# shellcheck disable=SC2086 # flags are words
"$compiler" $flags "$work/main.c" $(pkg-config --cflags --libs rctx) -o "$work/shared"
"$work/shared" || fail "pkg-config, shared: wrong version"
# shellcheck disable=SC2086
"$compiler" $flags "$work/main.c" $(pkg-config --cflags rctx) "$lib/librctx.a" \
  $(pkg-config --static --libs liburcu-bp) -pthread -o "$work/static"
"$work/static" || fail "pkg-config, static: wrong version"

cat >"$work/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.22)
project(consumer LANGUAGES C)
find_package(rctx 0.1 REQUIRED)
add_executable(a main.c)
target_link_libraries(a PRIVATE rctx::rctx)
add_executable(b main.c)
target_link_libraries(b PRIVATE rctx::static)
END
cmake -G Ninja -S "$work" -B "$work/out" -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_C_COMPILER="$compiler" \
  -DCMAKE_C_FLAGS="$flags" >"$work/log" 2>&1 && cmake --build "$work/out" >>"$work/log" 2>&1 ||
  { cat "$work/log"; fail "find_package"; }
"$work/out/a" && "$work/out/b" || fail "find_package: wrong version"

if [[ -e $pc/rctx-curl.pc ]]; then # the adapter: with each of the two libraries, and only one of them
  cat >"$work/curl.c" <<'END'
#include <rctx/adapt/curl.h>
int main(void) {
  struct rctx_curl_transfer transfer = {0};
  return rctx_curl_stop(&transfer) != -EALREADY;
}
END
  # shellcheck disable=SC2046,SC2086
  "$compiler" $flags "$work/curl.c" $(pkg-config --cflags --libs rctx-curl) -o "$work/curl"
  "$work/curl" || fail "pkg-config: rctx-curl"
  cat >>"$work/CMakeLists.txt" <<'END'
find_package(rctx REQUIRED COMPONENTS curl)
add_executable(c curl.c)
target_link_libraries(c PRIVATE rctx::curl)
add_executable(d curl.c)
target_link_libraries(d PRIVATE rctx::static rctx::curl_static)
END
  cmake -S "$work" -B "$work/out" >"$work/log" 2>&1 && cmake --build "$work/out" >>"$work/log" 2>&1 ||
    { cat "$work/log"; fail "find_package: rctx::curl"; }
  "$work/out/c" && "$work/out/d" || fail "find_package: rctx::curl"
  readelf -d "$work/out/d" | grep -q 'NEEDED.*librctx' && fail "rctx::curl_static brings the shared library, too"
fi

exported=$(nm -D --defined-only "$lib/librctx.so" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | grep -vE '^rctx_([a-z]|_(null_context|null_seen|end_scope|look|leaks_every|leak_made|print_[a-z0-9]+)$)' || true)
[[ -z $exported ]] || fail "exported although not public: $exported"
needed=$(readelf -d "$lib/librctx.so" | grep -c 'NEEDED.*jemalloc' || true)
[[ $needed == 0 ]] || fail "librctx.so needs jemalloc"
readelf -d "$lib/librctx.so" | grep -q 'NODELETE' || fail "librctx.so is not marked nodelete"
echo "installed, linked four ways, exports only rctx_*"
