# Where a CUDA compiler of 12.8 to 13 lies. Included by Dependencies.cmake, and run by scripts/lib/setup.sh as
#   cmake -P third_party/LocateCuda.cmake
# which prints "VERSION NVCC" on stdout, or nothing: one search for both.
#
# Order: CMAKE_CUDA_COMPILER, CUDACXX, nvcc on PATH, /usr/local/cuda, the toolkit from PyPI that scripts/*.sh
# install into the user's cache folder.
#
# A CMAKE_CUDA_COMPILER or CUDACXX that is no such compiler is an error: who names one wants that one.
#
# Sets Cuda_NVCC (empty: not found) and Cuda_VERSION; Cuda_PASSED_OVER lists what was seen and does not fit.

set(_cuda_named)
set(_cuda_source)
if(CMAKE_CUDA_COMPILER)
  set(_cuda_named "${CMAKE_CUDA_COMPILER}")
  set(_cuda_source CMAKE_CUDA_COMPILER)
elseif(NOT "$ENV{CUDACXX}" STREQUAL "")
  set(_cuda_named "$ENV{CUDACXX}")
  set(_cuda_source CUDACXX)
endif()
# Both may also name a program to be looked for on PATH.
set(_cuda_candidates)
foreach(_name ${_cuda_named} nvcc)
  unset(_cuda_program)
  find_program(_cuda_program "${_name}" NO_CACHE)
  if(_cuda_program)
    list(APPEND _cuda_candidates "${_cuda_program}")
  elseif(_name STREQUAL "${_cuda_named}")
    list(APPEND _cuda_candidates "${_name}")
  endif()
endforeach()
if(DEFINED ENV{XDG_CACHE_HOME} AND NOT "$ENV{XDG_CACHE_HOME}" STREQUAL "")
  set(_cuda_cache "$ENV{XDG_CACHE_HOME}")
else()
  set(_cuda_cache "$ENV{HOME}/.cache")
endif()
file(GLOB _cuda_cached "${_cuda_cache}/asplash/cuda-13.0.2/lib/python3*/site-packages/nvidia/cu13/bin/nvcc")
list(APPEND _cuda_candidates /usr/local/cuda/bin/nvcc ${_cuda_cached})

set(Cuda_NVCC "")
set(Cuda_VERSION "")
set(Cuda_PASSED_OVER)
foreach(_nvcc IN LISTS _cuda_candidates)
  if(EXISTS "${_nvcc}")
    execute_process(COMMAND "${_nvcc}" --version OUTPUT_VARIABLE _cuda_text ERROR_QUIET RESULT_VARIABLE _cuda_status)
    if(_cuda_status EQUAL 0 AND _cuda_text MATCHES "V([0-9]+\\.[0-9]+\\.[0-9]+)")
      set(_version "${CMAKE_MATCH_1}")
      if(_version VERSION_GREATER_EQUAL 12.8 AND _version VERSION_LESS 14)
        set(Cuda_NVCC "${_nvcc}")
        set(Cuda_VERSION "${_version}")
        break()
      endif()
      list(APPEND Cuda_PASSED_OVER "nvcc ${_version} in ${_nvcc}")
    endif()
  endif()
  if(_cuda_source)
    # The first candidate is the one that was named.
    set(_seen "")
    if(Cuda_PASSED_OVER)
      list(JOIN Cuda_PASSED_OVER ", " _seen)
      set(_seen ": ${_seen}")
    endif()
    message(FATAL_ERROR "${_cuda_source} is '${_cuda_named}', which is no CUDA compiler of 12.8 to 13${_seen}. "
      "Name one, or unset it, or build without CUDA: ASPLASH_CUDA=OFF")
  endif()
endforeach()

if(CMAKE_SCRIPT_MODE_FILE AND Cuda_NVCC)
  # message() writes to stderr; this is the script's answer.
  execute_process(COMMAND "${CMAKE_COMMAND}" -E echo "${Cuda_VERSION} ${Cuda_NVCC}")
endif()
