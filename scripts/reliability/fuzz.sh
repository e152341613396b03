#!/usr/bin/env bash
# Fuzzes the four readers (configurations, shards, safetensors, JSON Lines) with libFuzzer, address and
# undefined-behaviour sanitizers: a new mutation again and again, until one breaks a promise or the time is over.
#
#   scripts/reliability/fuzz.sh [SECONDS [TARGET...]]     600 seconds each of: config shard safetensors jsonl
#
# A finding is left in build/fuzz/findings/TARGET-*, to be moved into tests/fuzz/inputs/TARGET/ once it is mended: the
# tests `fuzz.TARGET` replay what lies there. What was learned stays in build/fuzz/corpus/, where the next run goes on.
# Needs clang with libFuzzer, which is installed by apt. Environment: see scripts/lib/setup.sh; FUZZ_SEED (default 0:
# another one each time); FUZZ_AT_ONCE=4 for all at the same time, on a core each.
set -euo pipefail
# shellcheck source=scripts/lib/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/setup.sh"

case ${1:-} in
  -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
seconds=${1:-600}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "SECONDS must be a positive number, not '$seconds'"
shift || true
targets=("$@")
[ $# -gt 0 ] || targets=(config shard safetensors jsonl)

step "set-up"
install_packages "what the build needs" "${BUILD_PACKAGES[@]}" clang
setup_libtorch
folder=$ASPLASH_ROOT/build/fuzz
if [ ! -e "$folder/build.ninja" ]; then
  step "configure $folder"
  logged configure-fuzz cmake --preset fuzz -S "$ASPLASH_ROOT" -DTorch_DIR="$LIBTORCH_ROOT/share/cmake/Torch"
fi
step "build"
with_progress build-fuzz cmake --build "$folder" --parallel "$(build_jobs)" --target fuzzers
mkdir -p "$folder/findings"

# fuzz TARGET: one line of result; false for a finding.
fuzz() {
  local target=$1 corpus=$folder/corpus/$1 log=$folder/$1.log
  mkdir -p "$corpus"
  "$folder/tests/fuzz/asplash_fuzz_$target" --seeds-to "$folder/seeds/$target"
  if "$folder/tests/fuzz/asplash-fuzz-$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 \
    -seed="${FUZZ_SEED:-0}" -print_final_stats=1 -artifact_prefix="$folder/findings/$target-" \
    "$corpus" "$folder/seeds/$target" "$ASPLASH_ROOT/tests/fuzz/inputs/$target" >"$log" 2>&1; then
    echo "ok: $target: $(awk '/number_of_executed_units/ { print $NF }' "$log") inputs in $seconds s," \
      "$(find "$corpus" -type f | wc -l) in the corpus, no finding"
  else
    tail -n 40 "$log"
    echo "FINDING: $target: see $log and $folder/findings/"
    return 1
  fi
}

step "fuzz ${targets[*]}, $seconds s each"
results=()
for target in "${targets[@]}"; do
  fuzz "$target" &
  results+=($!)
  [ "${#results[@]}" -lt "${FUZZ_AT_ONCE:-1}" ] || { wait "${results[0]}" || failed=1; results=("${results[@]:1}"); }
done
for result in "${results[@]}"; do wait "$result" || failed=1; done
exit "${failed:-0}"
