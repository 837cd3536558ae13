#!/bin/sh
# all_fail.sh COUNT WHAT COMMAND...: the test program COMMAND must run COUNT tests and see each of them fail, saying WHAT.
count=$1 what=$2
shift 2
if said=$("$@" 2>&1); then
  echo "it ended well; it said:"
elif ! printf '%s\n' "$said" | grep -q "Tested: $count | Passing: 0 | Failing: $count | Crashing: 0"; then
  echo "not all of $count tests failed; it said:"
elif [ "$(printf '%s\n' "$said" | grep -c "$what")" -lt "$count" ]; then
  echo "they failed without '$what'; it said:"
else
  echo "all $count failed, as they must"
  exit 0
fi
printf '%s\n' "$said"
exit 1
