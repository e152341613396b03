# Finds libtorch and defines the target Libtorch::Libtorch.
#
# Not through torch's own TorchConfig.cmake: that stops on machines without a CUDA toolkit even for
# CPU code, and writes -gencode flags of its own into CMAKE_CUDA_FLAGS of every target.
#
# Looked for, in this order: Torch_DIR (as for TorchConfig.cmake: DIR/share/cmake/Torch),
# CMAKE_PREFIX_PATH, the `torch` package of python3 on PATH, the virtual environment that
# scripts/quickstart.sh and scripts/test.sh make in the user's cache folder.
#
# Sets Libtorch_FOUND, Libtorch_VERSION, Libtorch_ROOT_DIR, Libtorch_LIBRARY_DIR, Libtorch_HAS_CUDA.

set(_libtorch_wanted "2.11")
set(_libtorch_candidates)
foreach(_dir "${Torch_DIR}" "$ENV{Torch_DIR}")
  if(_dir)
    list(APPEND _libtorch_candidates "${_dir}/../../..")
  endif()
endforeach()
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
if(DEFINED ENV{XDG_CACHE_HOME})
  set(_libtorch_cache "$ENV{XDG_CACHE_HOME}")
else()
  set(_libtorch_cache "$ENV{HOME}/.cache")
endif()
file(GLOB _libtorch_cached "${_libtorch_cache}/asplash/torch-2.11.0/lib/python3*/site-packages/torch")
list(APPEND _libtorch_candidates ${_libtorch_cached})

set(Libtorch_ROOT_DIR "")
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
    message(STATUS "libtorch ${_version} in ${_dir} passed over: ${_libtorch_wanted} is needed")
  endif()
endforeach()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Libtorch
  REQUIRED_VARS Libtorch_ROOT_DIR VERSION_VAR Libtorch_VERSION
  REASON_FAILURE_MESSAGE "set Torch_DIR to <torch>/share/cmake/Torch of torch 2.11, or run scripts/test.sh, which installs it")

if(Libtorch_FOUND AND NOT TARGET Libtorch::Libtorch)
  set(Libtorch_LIBRARY_DIR "${Libtorch_ROOT_DIR}/lib")
  set(Libtorch_HAS_CUDA OFF)
  if(EXISTS "${Libtorch_LIBRARY_DIR}/libtorch_cuda.so")
    set(Libtorch_HAS_CUDA ON)
  endif()
  add_library(Libtorch::c10 SHARED IMPORTED)
  set_target_properties(Libtorch::c10 PROPERTIES IMPORTED_LOCATION "${Libtorch_LIBRARY_DIR}/libc10.so")
  add_library(Libtorch::torch_cpu SHARED IMPORTED)
  set_target_properties(Libtorch::torch_cpu PROPERTIES IMPORTED_LOCATION "${Libtorch_LIBRARY_DIR}/libtorch_cpu.so")
  # The libraries that libtorch itself needs (cupti, cudart, gomp) are found at run time through its
  # own RPATH; the linker need not resolve them.
  add_library(Libtorch::Libtorch INTERFACE IMPORTED)
  target_include_directories(Libtorch::Libtorch SYSTEM INTERFACE
    "${Libtorch_ROOT_DIR}/include" "${Libtorch_ROOT_DIR}/include/torch/csrc/api/include")
  target_link_libraries(Libtorch::Libtorch INTERFACE Libtorch::torch_cpu Libtorch::c10)
  target_link_options(Libtorch::Libtorch INTERFACE "LINKER:--allow-shlib-undefined")
endif()

# libtorch_cuda registers its operators when it is loaded, and no symbol of it is named by our code: the
# linker must keep it all the same. Programs of a CUDA build link this beside Libtorch::Libtorch.
if(Libtorch_FOUND AND Libtorch_HAS_CUDA AND NOT TARGET Libtorch::cuda)
  add_library(Libtorch::cuda INTERFACE IMPORTED)
  target_link_libraries(Libtorch::cuda INTERFACE
    "-Wl,--push-state,--no-as-needed,${Libtorch_LIBRARY_DIR}/libtorch_cuda.so,${Libtorch_LIBRARY_DIR}/libc10_cuda.so,--pop-state")
endif()
