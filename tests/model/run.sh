#!/usr/bin/env bash
# Runs the Spin models of the library's protocols: each exhaustively, and each again with every planted bug, which must
# be found. A model names its planted bugs in its header, "PLANT BUG_NAME: what it is"; -DBUG_NAME plants it. "ALSO NAME"
# is another correct form of the model.
#
#   tests/model/run.sh [part of a name ...]     e.g. tree_, after_stop, BUG_PIN
#
# Needs spin and gcc. RCTX_JOBS searches at a time (default: one per processor), the correct models first since they
# take longest. Output under build/model/ (the counterexample of a failure: spin -t -p -g, as printed).
# Non-zero when a correct model has an error, when a search is not exhaustive (depth, memory, time), or when a planted bug
# is not found.
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$here/../../build/model
jobs=${RCTX_JOBS:-$(nproc)}
memory_mb=2000
depth=100000
seconds=240

# check MODEL BUG: one line; BUG "-": the model as it is. Leaves the verdict in build/model/MODEL-BUG/verdict.
check() {
  local model=$1 bug=${2#-} dir begin states verdict optimise=-O2
  dir=$(directory "$1" "$2")
  rm -rf "$dir" && mkdir -p "$dir" && cd "$dir" || return
  [[ $bug == BUG_* ]] && optimise=-O0 # found within seconds: compiling is what takes the time
  begin=$EPOCHREALTIME
  if ! spin ${bug:+"-D$bug"} -a "$here/$model.pml" >spin.log 2>&1 ||
    ! gcc $optimise -w -DSAFETY -DCOLLAPSE -DVECTORSZ=2048 -DMEMLIM=$memory_mb -o pan pan.c 2>gcc.log; then
    verdict="FAILED: does not compile, see $dir"
  else
    timeout "$seconds" ./pan -m$depth >pan.log 2>&1
    verdict=$(judge "$bug" $?)
  fi
  states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' pan.log 2>/dev/null)
  printf '%-16s %-32s %10.0f %6.1f  %s\n' "$model" "${bug:--}" "${states:-0}" \
    "$(awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }')" "$verdict"
  echo "$verdict" >verdict
}

directory() { # MODEL BUG
  if [ "$2" = - ]; then echo "$out/$1"; else echo "$out/$1-$2"; fi
}

judge() { # BUG, exit status of pan; reads pan.log
  local errors
  [[ $1 == BUG_* ]] || set -- "" "$2"
  errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' pan.log)
  if [ "$2" -ne 0 ] || [ -z "$errors" ]; then
    echo "FAILED: the search stopped with status $2"
  elif grep -q 'max search depth too small\|MEMLIM bound\|out of memory\|Search not completed\|VECTORSZ' pan.log && [ "$errors" = 0 ]; then
    echo "FAILED: the search is not exhaustive"
  elif [ -z "$1" ] && [ "$errors" != 0 ]; then
    echo "FAILED: $(sed -n 's/^pan:[0-9]*: //p' pan.log | head -1), see $PWD: spin -t -p -g"
  elif [ -n "$1" ] && [ "$errors" = 0 ]; then
    echo "FAILED: planted bug not found"
  elif [ -n "$1" ]; then
    echo "found: $(sed -n 's/^pan:[0-9]*: //p' pan.log | head -1 | cut -c1-70)"
  else
    echo "no error"
  fi
}

# Every search, "MODEL BUG" a line: the correct models, then the planted bugs.
searches() {
  local file
  for file in "$here"/*.pml; do
    echo "$(basename "$file" .pml) -"
    sed -n "s/^ \* ALSO \([A-Z_]*\): .*/$(basename "$file" .pml) \1/p" "$file"
  done
  for file in "$here"/*.pml; do
    sed -n "s/^ \* PLANT \([A-Z_]*\): .*/$(basename "$file" .pml) \1/p" "$file"
  done
}

selected() { # reads searches, keeps those whose MODEL-BUG has one of the filters in it; without filters all
  local model bug filter
  while read -r model bug; do
    [ $# -gt 0 ] || echo "$model $bug"
    for filter in "$@"; do
      [[ $model-$bug == *"$filter"* ]] && echo "$model $bug" && break
    done
  done
}

if [ "${1-}" = --check ]; then # what xargs starts below
  check "$2" "$3"
  exit 0
fi

for tool in spin gcc; do
  command -v "$tool" >/dev/null || { echo "run.sh: $tool is not installed" >&2; exit 2; }
done
mkdir -p "$out" || exit 2
list=$(searches | selected "$@")
[ -n "$list" ] || { echo "run.sh: no such model or planted bug: $*" >&2; exit 2; }

while read -r model bug; do rm -rf "$(directory "$model" "$bug")"; done <<<"$list" # no verdict from before counts
printf '%-16s %-32s %10s %6s  %s\n' model 'planted bug' states sec verdict
xargs -P "$jobs" -L 1 bash "${BASH_SOURCE[0]}" --check <<<"$list"

passed=0 failed=0
while read -r model bug; do
  verdict=$(cat "$(directory "$model" "$bug")/verdict" 2>/dev/null)
  if [[ -z $verdict || $verdict == FAILED* ]]; then
    failed=$((failed + 1))
  else
    passed=$((passed + 1))
  fi
done <<<"$list"
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
