#!/usr/bin/env bash
# Builds with sanitizers and runs the tests: all CPU tests with the address and undefined-behaviour sanitizers, and
# with the thread sanitizer those of the parts that have threads of their own (logging, progress, packer, loader,
# background saving). libtorch is not instrumented, and OpenMP's barriers are unknown to the thread sanitizer: it
# runs with one OpenMP thread.
#
#   scripts/reliability/sanitizers.sh [debug|tsan] [CTEST_ARGUMENT...]      both, if none is named
#
# Environment: see scripts/lib/setup.sh.
set -euo pipefail
# shellcheck source=scripts/lib/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/setup.sh"

presets=(debug tsan)
case ${1:-} in
  -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
  debug | tsan) presets=("$1"); shift ;;
esac

step "set-up"
install_packages "what the build needs" "${BUILD_PACKAGES[@]}" xz-utils
setup_libtorch
for preset in "${presets[@]}"; do
  folder=$ASPLASH_ROOT/build/$preset
  if [ ! -e "$folder/build.ninja" ]; then
    step "configure $folder"
    logged "configure-$preset" cmake --preset "$preset" -S "$ASPLASH_ROOT" -DTorch_DIR="$LIBTORCH_ROOT/share/cmake/Torch"
  fi
  step "build $preset"
  with_progress "build-$preset" cmake --build "$folder" --parallel "$(build_jobs)"
  step "run the tests of $preset"
  ctest --preset "$preset" --no-tests=error "$@"
  if [ "$preset" = tsan ]; then
    OMP_NUM_THREADS=1 TSAN_OPTIONS=halt_on_error=1 "$folder/tests/train/asplash_train_tests" --gtest_filter='SaverTest.*'
  fi
done
