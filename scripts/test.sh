#!/usr/bin/env bash
# Sets everything up, builds, and runs all tests through CTest.
#
#   scripts/test.sh [CTEST_ARGUMENT...]      for example: scripts/test.sh -R model -j 2
#
# Environment: see scripts/lib/setup.sh (Torch_DIR, CUDACXX, ASPLASH_CUDA=OFF, ASPLASH_JOBS, VERBOSE=1).
set -euo pipefail
# shellcheck source=scripts/lib/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"

case ${1:-} in
  -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
esac

setup xz-utils
build all
step "run the tests"
ctest --test-dir "$ASPLASH_BUILD" --output-on-failure --no-tests=error "$@"
