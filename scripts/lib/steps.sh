# shellcheck shell=bash
# Steps of a script: what is done, since how many seconds, where its output went, and which one failed.
# Sourced; the caller runs under `set -euo pipefail`.

STEPS_LOGS=${STEPS_LOGS:-/tmp}  # folder of the log files; setup.sh points it at the build folder
STEPS_CURRENT=start
STEPS_LOG=

say() { printf '[%4d s] %s\n' "$SECONDS" "$*"; }
warn() { printf '[%4d s] WARNING: %s\n' "$SECONDS" "$*" >&2; }

# die LINE...: ends the script with a message that a user can act on.
die() {
  trap - EXIT
  printf '\nFAILED: %s\n' "$1" >&2
  shift
  [ $# -eq 0 ] || printf '  %s\n' "$@" >&2
  exit 1
}

# step WHAT: from here on, a failure is reported as a failure of WHAT.
step() {
  STEPS_CURRENT=$*
  STEPS_LOG=
  say "$*"
}

# logged NAME COMMAND...: runs the command with its output in $STEPS_LOGS/NAME.log. VERBOSE=1 shows it as well.
logged() {
  local name=$1
  shift
  mkdir -p "$STEPS_LOGS"
  STEPS_LOG=$STEPS_LOGS/$name.log
  printf '$ %s\n' "$*" >"$STEPS_LOG"
  if [ "${VERBOSE:-0}" = 1 ]; then
    "$@" 2>&1 | tee -a "$STEPS_LOG"
  else
    "$@" >>"$STEPS_LOG" 2>&1
  fi
}

# with_progress NAME COMMAND...: like logged, and shows the "[12/87]" of a build: in place on a terminal, a line
# each half minute elsewhere.
with_progress() {
  local line shown=$SECONDS
  logged "$@" &
  local job=$!
  STEPS_LOG=$STEPS_LOGS/$1.log
  while kill -0 "$job" 2>/dev/null; do
    sleep 0.3
    line=$(tail -n 1 "$STEPS_LOG" 2>/dev/null | grep -oE '^\[[0-9]+/[0-9]+\] .*' || true)
    if [ -n "$line" ] && [ -t 1 ]; then
      printf '\r\033[K%.100s' "$line"
    elif [ -n "$line" ] && [ $((SECONDS - shown)) -ge 30 ]; then
      say "  ${line%% *}"
      shown=$SECONDS
    fi
  done
  [ ! -t 1 ] || printf '\r\033[K'
  wait "$job"
}

steps_on_exit() {
  local status=$?
  [ $status -eq 0 ] && return
  if [ -n "$STEPS_LOG" ] && [ -s "$STEPS_LOG" ]; then
    printf '\n--- last lines of %s\n' "$STEPS_LOG" >&2
    tail -n 30 "$STEPS_LOG" | cut -c1-300 >&2
  fi
  printf '\nFAILED (status %d): %s\n' "$status" "$STEPS_CURRENT" >&2
  [ -z "$STEPS_LOG" ] || printf '  its whole output: %s\n' "$STEPS_LOG" >&2
  exit "$status"
}
trap steps_on_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
