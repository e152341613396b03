# shellcheck shell=bash
# Set-up shared by scripts/quickstart.sh and scripts/test.sh: system packages, libtorch, CUDA compiler,
# configure, build. Every function is idempotent and says what it does only where it does something.
#
# Environment:
#   Torch_DIR, CMAKE_PREFIX_PATH  a libtorch 2.11 to be used (see third_party/LocateLibtorch.cmake)
#   CUDACXX                       a CUDA compiler to be used (see third_party/LocateCuda.cmake)
#   ASPLASH_CUDA                  AUTO (default), ON, OFF: OFF needs no CUDA compiler and installs none
#   ASPLASH_JOBS                  compile jobs at a time (default: cores, one for each 2 GB of free memory)
#   XDG_CACHE_HOME                what is installed from PyPI lies in its folder asplash/ (default ~/.cache)
#   VERBOSE=1                     show the output of every command

ASPLASH_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
ASPLASH_BUILD=$ASPLASH_ROOT/build/release
ASPLASH_CACHE=${XDG_CACHE_HOME:-${HOME:?HOME must be set: libtorch is kept in ~/.cache/asplash}/.cache}/asplash
ASPLASH_CUDA=${ASPLASH_CUDA:-AUTO}
STEPS_LOGS=$ASPLASH_ROOT/build/logs
# shellcheck source=scripts/lib/steps.sh
. "$ASPLASH_ROOT/scripts/lib/steps.sh"

readonly TORCH_REQUIREMENT='torch==2.11.0'
readonly CUDA_REQUIREMENT='cuda-toolkit[nvcc,cudart,crt,cccl,nvvm,nvrtc,nvtx]==13.0.2'
readonly BUILD_PACKAGES=(
  g++ cmake ninja-build ccache pkg-config git ca-certificates python3 python3-venv
  libyaml-cpp-dev libspdlog-dev libcli11-dev nlohmann-json3-dev
  libsentencepiece-dev libxxhash-dev libarchive-dev zlib1g-dev libgtest-dev)

# install_packages WHY PACKAGE...: Debian packages that are not there yet, by apt, as root or through sudo.
install_packages() {
  local why=$1 package missing=() sudo=()
  shift
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    warn "this is no Debian or Ubuntu: make sure that these are installed by their names here: $*"
    return
  fi
  for package in "$@"; do
    dpkg-query -W -f='${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "packages are missing, and this is neither root nor is there sudo" \
      "let an administrator run: apt-get install ${missing[*]}"
    sudo=(sudo)
  fi
  step "install $why by apt: ${missing[*]}"
  # A list of packages that cannot be refreshed may still hold what is needed; the install below says.
  logged apt-update "${sudo[@]}" apt-get update || warn "apt-get update failed (see $STEPS_LOG); trying the lists that are there"
  logged apt-install "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}"
}

# make_environment NAME GIB WHAT REQUIREMENT [FINISH]: the PyPI requirement in a virtual environment
# $ASPLASH_CACHE/NAME that all clones of this user share. It is made beside and renamed, so that an environment
# of that name is always whole; FINISH is called with the folder before that.
make_environment() {
  local folder=$ASPLASH_CACHE/$1 gib=$2 what=$3 requirement=$4 finish=${5:-:} partial free_gib lock
  [ ! -d "$folder" ] || return 0
  step "install $what from PyPI ($requirement) into $folder; about $gib GiB"
  mkdir -p "$ASPLASH_CACHE" || die "cannot make the folder $ASPLASH_CACHE" \
    "set XDG_CACHE_HOME to a folder that you may write to"
  exec {lock}>"$ASPLASH_CACHE/.lock"
  if ! flock -n "$lock"; then
    say "another set-up is installing into $ASPLASH_CACHE; waiting for it"
    flock "$lock"
  fi
  if [ ! -d "$folder" ]; then
    free_gib=$(($(df -Pk "$ASPLASH_CACHE" | awk 'NR == 2 { print $4 }') / 1048576))
    [ "$free_gib" -ge "$gib" ] || die "$what needs about $gib GiB in $ASPLASH_CACHE, where $free_gib GiB are free" \
      "make room, or set XDG_CACHE_HOME to a folder on a larger disk"
    partial=$folder.partial
    rm -rf "$partial"
    logged "venv-$1" "$(system_python)" -m venv "$partial"
    logged "pip-$1" "$partial/bin/python" -m pip install --no-cache-dir --progress-bar off "$requirement"
    "$finish" "$partial"
    # pip wrote the folder's first name into the programs it made.
    { grep -rlIF "$partial" "$partial/bin" "$partial/pyvenv.cfg" || true; } | xargs -r sed -i "s|$partial|$folder|g"
    mv "$partial" "$folder"
  fi
  exec {lock}>&-
}

# Debian's own Python has the venv module that was installed above; others on PATH may lack it.
system_python() {
  if [ -x /usr/bin/python3 ]; then echo /usr/bin/python3; else command -v python3; fi
}

# The toolkit's wheels lack the links that compilers and CMake expect.
finish_cuda() {
  local root library
  root=$(echo "$1"/lib/python3*/site-packages/nvidia/cu13)
  [ -x "$root/bin/nvcc" ] || die "$CUDA_REQUIREMENT brought no $root/bin/nvcc" \
    "go on without CUDA: ASPLASH_CUDA=OFF $0"
  [ -e "$root/lib64" ] || ln -s lib "$root/lib64"
  for library in "$root"/lib/lib*.so.*; do
    [ -e "${library%%.so.*}.so" ] || ln -s "$(basename "$library")" "${library%%.so.*}.so"
  done
}

setup_libtorch() {
  local found
  found=$(cmake -P "$ASPLASH_ROOT/third_party/LocateLibtorch.cmake")
  if [ -z "$found" ]; then
    make_environment torch-2.11.0 8 libtorch "$TORCH_REQUIREMENT"
    found=$(cmake -P "$ASPLASH_ROOT/third_party/LocateLibtorch.cmake")
    [ -n "$found" ] || die "no libtorch 2.11 in $ASPLASH_CACHE/torch-2.11.0" "remove that folder and run this again"
  fi
  LIBTORCH_ROOT=${found#* }
  say "libtorch ${found%% *}: $LIBTORCH_ROOT"
}

setup_cuda() {
  local found
  CUDA_NVCC=
  if [ "$ASPLASH_CUDA" = OFF ]; then
    say "CUDA parts: not built (ASPLASH_CUDA=OFF)"
    return
  fi
  if [ ! -e "$LIBTORCH_ROOT/lib/libtorch_cuda.so" ]; then
    warn "CUDA parts are not built: the libtorch in $LIBTORCH_ROOT is a CPU build"
    return
  fi
  found=$(cmake -P "$ASPLASH_ROOT/third_party/LocateCuda.cmake")
  if [ -z "$found" ]; then
    # In a subshell: where this fails, there is still the CPU build.
    set +e
    (
      set -e
      make_environment cuda-13.0.2 3 "the CUDA compiler" "$CUDA_REQUIREMENT" finish_cuda
    )
    set -e
    found=$(cmake -P "$ASPLASH_ROOT/third_party/LocateCuda.cmake")
  fi
  if [ -z "$found" ]; then
    [ "$ASPLASH_CUDA" != ON ] || die "ASPLASH_CUDA=ON, but there is no CUDA compiler of 12.8 to 13" \
      "put nvcc on PATH or set CUDACXX; what PyPI said: $STEPS_LOGS/pip-cuda-13.0.2.log"
    warn "no CUDA compiler of 12.8 to 13, and PyPI gave none: CUDA PARTS ARE NOT BUILT; the CPU build goes on" \
      "(what PyPI said: $STEPS_LOGS/pip-cuda-13.0.2.log)"
    return
  fi
  CUDA_NVCC=${found#* }
  say "CUDA compiler ${found%% *}: $CUDA_NVCC"
}

# Compile jobs: a file that includes libtorch takes up to 2 GB.
build_jobs() {
  local cores memory_jobs
  cores=$(nproc)
  memory_jobs=$(awk '/^MemAvailable:/ { print int($2 / 2000000) }' /proc/meminfo)
  [ "$memory_jobs" -ge 1 ] || memory_jobs=1
  echo "${ASPLASH_JOBS:-$((cores < memory_jobs ? cores : memory_jobs))}"
}

# The release preset; again only where something that CMake itself would not notice changed.
configure() {
  local wanted cuda=OFF
  [ -z "$CUDA_NVCC" ] || cuda=ON
  wanted="$ASPLASH_ROOT | $LIBTORCH_ROOT | $CUDA_NVCC"
  if [ -e "$ASPLASH_BUILD/build.ninja" ] && [ "$(cat "$ASPLASH_BUILD/.setup" 2>/dev/null)" = "$wanted" ]; then
    return
  fi
  step "configure $ASPLASH_BUILD (CUDA parts: $cuda)"
  rm -f "$ASPLASH_BUILD/.setup"
  CUDACXX=$CUDA_NVCC logged configure cmake --preset release -S "$ASPLASH_ROOT" --fresh \
    -DASPLASH_CUDA="$cuda" -DTorch_DIR="$LIBTORCH_ROOT/share/cmake/Torch"
  printf '%s\n' "$wanted" >"$ASPLASH_BUILD/.setup"
}

# build TARGET...: says how many jobs and how long.
build() {
  local jobs begin=$SECONDS
  jobs=$(build_jobs)
  step "build $* with $jobs jobs (the first time: some minutes)"
  with_progress build cmake --build "$ASPLASH_BUILD" --parallel "$jobs" --target "$@"
  say "built in $((SECONDS - begin)) s"
}

# setup [PACKAGE...]: everything up to a configured build folder; PACKAGE: more Debian packages.
setup() {
  step "set-up"
  install_packages "what the build needs" "${BUILD_PACKAGES[@]}" "$@"
  setup_libtorch
  setup_cuda
  configure
}
