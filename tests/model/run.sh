#!/usr/bin/env bash
# Runs the Spin models of the library's protocols: each exhaustively, and each again with every planted bug, which must
# be found. A model names its planted bugs in its header, "PLANT BUG_NAME: what it is"; -DBUG_NAME plants it. "ALSO NAME"
# is another correct form of the model.
#
#   tests/model/run.sh [part of a name ...]     e.g. tree_, after_stop, BUG_PIN
#
# Needs spin and gcc. Output under build/model/ (the counterexample of a failure: spin -t -p -g, as printed).
# Non-zero when a correct model has an error, when a search is not exhaustive (depth, memory, time), or when a planted bug
# is not found.
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$here/../../build/model
memory_mb=3000
depth=100000
seconds=120

for tool in spin gcc; do
  command -v "$tool" >/dev/null || { echo "run.sh: $tool is not installed" >&2; exit 2; }
done
mkdir -p "$out" || exit 2

selected() { # name...: is one of the filters part of it? Without filters everything is.
  [ ${#filters[@]} -eq 0 ] && return 0
  local filter
  for filter in "${filters[@]}"; do [[ $1 == *"$filter"* ]] && return 0; done
  return 1
}

# check MODEL BUG: one line; BUG empty: the model as it is. Leaves the verdict in $dir/verdict.
check() {
  local model=$1 bug=$2 dir=$out/$1${2:+-$2} begin states verdict optimise=-O2
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

filters=("$@")
passed=0 failed=0
printf '%-16s %-32s %10s %6s  %s\n' model 'planted bug' states sec verdict
tally() {
  if grep -q '^FAILED' "$1/verdict" 2>/dev/null || [ ! -s "$1/verdict" ]; then failed=$((failed + 1)); else passed=$((passed + 1)); fi
}

for file in "$here"/*.pml; do
  model=$(basename "$file" .pml)
  for bug in "" $(sed -n 's/^ \* \(ALSO\|PLANT\) \([A-Z_]*\): .*/\2/p' "$file"); do
    selected "$model${bug:+-$bug}" || continue
    (check "$model" "$bug")
    tally "$out/$model${bug:+-$bug}"
  done
done

printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$passed" -gt 0 ] && [ "$failed" -eq 0 ]
