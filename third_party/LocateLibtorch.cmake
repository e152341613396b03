# Where libtorch 2.11 lies. Included by FindLibtorch.cmake, and run by scripts/lib/setup.sh as
#   cmake -P third_party/LocateLibtorch.cmake
# which prints "VERSION ROOT" on stdout, or nothing: one search for both.
#
# Order: Torch_DIR (as for TorchConfig.cmake: <torch>/share/cmake/Torch), CMAKE_PREFIX_PATH, the `torch`
# package of the python3 on PATH, the virtual environment that scripts/*.sh make in the user's cache folder.
#
# A Torch_DIR, variable or environment, that holds no libtorch 2.11 is an error: who names one wants that one.
#
# Sets Libtorch_ROOT_DIR (empty: not found) and Libtorch_VERSION; Libtorch_PASSED_OVER lists what was seen and
# does not fit.

set(_libtorch_wanted "2.11")
set(_libtorch_candidates)
if(Torch_DIR)
  set(_libtorch_named "${Torch_DIR}")
else()
  set(_libtorch_named "$ENV{Torch_DIR}")
endif()
if(_libtorch_named)
  list(APPEND _libtorch_candidates "${_libtorch_named}/../../..")
endif()
set(_libtorch_prefixes "$ENV{CMAKE_PREFIX_PATH}")
string(REPLACE ":" ";" _libtorch_prefixes "${_libtorch_prefixes}")
foreach(_dir ${CMAKE_PREFIX_PATH} ${_libtorch_prefixes})
  # torch.utils.cmake_prefix_path is <torch>/share/cmake; a plain prefix is <torch>.
  list(APPEND _libtorch_candidates "${_dir}" "${_dir}/../..")
endforeach()
execute_process(
  COMMAND python3 -c "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
  OUTPUT_VARIABLE _libtorch_python OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(_libtorch_python)
  list(APPEND _libtorch_candidates "${_libtorch_python}")
endif()
if(DEFINED ENV{XDG_CACHE_HOME} AND NOT "$ENV{XDG_CACHE_HOME}" STREQUAL "")
  set(_libtorch_cache "$ENV{XDG_CACHE_HOME}")
else()
  set(_libtorch_cache "$ENV{HOME}/.cache")
endif()
file(GLOB _libtorch_cached "${_libtorch_cache}/asplash/torch-2.11.0/lib/python3*/site-packages/torch")
list(APPEND _libtorch_candidates ${_libtorch_cached})

set(Libtorch_ROOT_DIR "")
set(Libtorch_VERSION "")
set(Libtorch_PASSED_OVER)
foreach(_dir IN LISTS _libtorch_candidates)
  set(_header "${_dir}/include/torch/headeronly/version.h")
  if(EXISTS "${_header}" AND EXISTS "${_dir}/lib/libtorch_cpu.so")
    file(STRINGS "${_header}" _lines REGEX "#define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
    string(REGEX REPLACE ".*MAJOR ([0-9]+).*MINOR ([0-9]+).*PATCH ([0-9]+).*" "\\1.\\2.\\3" _version "${_lines}")
    if(_version VERSION_GREATER_EQUAL "${_libtorch_wanted}" AND _version VERSION_LESS "2.12")
      get_filename_component(Libtorch_ROOT_DIR "${_dir}" REALPATH)
      set(Libtorch_VERSION "${_version}")
      break()
    endif()
    list(APPEND Libtorch_PASSED_OVER "libtorch ${_version} in ${_dir}")
  endif()
  if(_libtorch_named AND _dir STREQUAL "${_libtorch_named}/../../..")
    set(_seen "")
    if(Libtorch_PASSED_OVER)
      list(JOIN Libtorch_PASSED_OVER ", " _seen)
      set(_seen ": ${_seen}")
    endif()
    message(FATAL_ERROR "Torch_DIR is '${_libtorch_named}', where there is no libtorch ${_libtorch_wanted}${_seen}. "
      "Set it to <torch>/share/cmake/Torch of torch ${_libtorch_wanted}, or unset it")
  endif()
endforeach()

if(CMAKE_SCRIPT_MODE_FILE AND Libtorch_ROOT_DIR)
  # message() writes to stderr; this is the script's answer.
  execute_process(COMMAND "${CMAKE_COMMAND}" -E echo "${Libtorch_VERSION} ${Libtorch_ROOT_DIR}")
endif()
