#!/usr/bin/env bash
# Formats the project's C++ and CUDA files with clang-format, or checks that they are formatted.
#
#   scripts/format.sh            rewrites files
#   scripts/format.sh --check    changes nothing, names what is not formatted, exits 1 if there is any
#
# clang-format 14 (Debian 12 and Ubuntu 24.04 both have it): other versions set some lines otherwise.
set -euo pipefail
# shellcheck source=scripts/lib/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"

check=0
case ${1:-} in
  '') ;;
  --check) check=1 ;;
  *) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; [ "$1" = --help ] || exit 2; exit 0 ;;
esac

command -v clang-format-14 >/dev/null || install_packages "the formatter" clang-format-14
cd "$ASPLASH_ROOT"
mapfile -d '' -t files < <(git ls-files -z -- '*.h' '*.cpp' '*.cu' '*.cuh')
[ ${#files[@]} -gt 0 ] || die "git lists no C++ files in $ASPLASH_ROOT"
if [ $check = 0 ]; then
  step "clang-format on ${#files[@]} files"
  clang-format-14 -i "${files[@]}"
  exit
fi
step "clang-format --check on ${#files[@]} files"
if ! output=$(clang-format-14 --dry-run --Werror "${files[@]}" 2>&1); then
  mapfile -t lines < <(sed -nE 's/^([^ :]+:[0-9]+):[0-9]+: .*/\1/p' <<<"$output" | sort -u -t: -k1,1 -k2,2n)
  [ ${#lines[@]} -gt 0 ] || lines=("$output")
  die "not formatted (scripts/format.sh mends it):" "${lines[@]}"
fi
