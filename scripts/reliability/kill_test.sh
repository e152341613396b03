#!/usr/bin/env bash
# Kills a training run that saves after every step at random moments, and compares what it ends with to a run that
# was never interrupted: weights, moments, counters and metrics must be the same bits.
#
#   scripts/reliability/kill_test.sh [KILLS] [SEED]      200 SIGKILLs (and a SIGTERM for every seven), a new seed
#
# After every kill the newest whole checkpoint must not be older than before, and nothing half-written may bear a
# checkpoint's name. CTest runs the same with 8 kills (test `interruption`). About two seconds a kill.
# Environment: ASPLASH_BUILD (default: build/release, built before by scripts/test.sh).
set -euo pipefail

case ${1:-} in
  -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
program=${ASPLASH_BUILD:-$root/build/release}/tests/train/asplash_interruption_tests
[ -x "$program" ] || { echo "error: there is no $program: run scripts/test.sh before" >&2; exit 1; }

export ASPLASH_KILLS=${1:-200}
[ -z "${2:-}" ] || export ASPLASH_KILL_SEED=$2
[[ $ASPLASH_KILLS =~ ^[1-9][0-9]*$ ]] || { echo "error: KILLS must be a positive number, not '$1'" >&2; exit 1; }
"$program" --gtest_filter='*EndedAtRandomMoments*' 2>/dev/null
