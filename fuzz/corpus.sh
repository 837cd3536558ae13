#!/usr/bin/env bash
# fuzz/corpus.sh NAME [SECONDS] - makes fuzz/corpus/NAME anew: fuzzes from what is there for SECONDS (300), then keeps the
# smallest set of inputs that reaches every edge reached. Needs the harness: ./dev build fuzz.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

name=${1:?usage: fuzz/corpus.sh NAME [SECONDS]}
seconds=${2:-300}
harness=build/fuzz/fuzz/$name
found=build/fuzz/corpus/$name
kept=fuzz/corpus/$name
fresh=build/fuzz/corpus/$name.fresh

[[ -x $harness ]] || { echo "fuzz/corpus.sh: no $harness; ./dev build fuzz makes it" >&2; exit 1; }
mkdir -p "$found" "$kept"
rm -rf "$fresh"
mkdir -p "$fresh"

echo "== fuzzing $name for $seconds s"
"$harness" -max_total_time="$seconds" -max_len=500 -artifact_prefix="build/fuzz/$name-" -verbosity=0 "$found" "$kept"
echo "== keeping the fewest and shortest that reach as much"
"$harness" -merge=1 -use_counters=0 -verbosity=0 "$fresh" "$kept" "$found"
find "$kept" -type f -delete
cp "$fresh"/* "$kept"
echo "== $kept: $(find "$kept" -type f | wc -l) inputs, $(cat "$kept"/* | wc -c) bytes"
