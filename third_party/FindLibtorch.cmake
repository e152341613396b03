# Finds libtorch (see LocateLibtorch.cmake for where) and defines the target Libtorch::Libtorch, and where the
# found one is a CUDA build Libtorch::cuda.
#
# Not through torch's own TorchConfig.cmake: that stops on machines without a CUDA toolkit even for CPU code,
# and writes -gencode flags of its own into CMAKE_CUDA_FLAGS of every target.
#
# Sets Libtorch_FOUND, Libtorch_VERSION, Libtorch_ROOT_DIR, Libtorch_LIBRARY_DIR, Libtorch_HAS_CUDA.

include("${CMAKE_CURRENT_LIST_DIR}/LocateLibtorch.cmake")
foreach(_line IN LISTS Libtorch_PASSED_OVER)
  message(STATUS "${_line} passed over: 2.11 is needed")
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
  # The libraries that libtorch itself needs (cupti, cudart, gomp) are found at run time through its own RPATH;
  # the linker need not resolve them.
  add_library(Libtorch::Libtorch INTERFACE IMPORTED)
  target_include_directories(Libtorch::Libtorch SYSTEM INTERFACE
    "${Libtorch_ROOT_DIR}/include" "${Libtorch_ROOT_DIR}/include/torch/csrc/api/include")
  target_link_libraries(Libtorch::Libtorch INTERFACE Libtorch::torch_cpu Libtorch::c10)
  target_link_options(Libtorch::Libtorch INTERFACE "LINKER:--allow-shlib-undefined")

  # libtorch_cuda registers its operators when it is loaded, and no symbol of it is named by our code: the
  # linker must keep it all the same. Programs of a CUDA build link this beside Libtorch::Libtorch.
  if(Libtorch_HAS_CUDA)
    add_library(Libtorch::cuda INTERFACE IMPORTED)
    target_link_libraries(Libtorch::cuda INTERFACE
      "-Wl,--push-state,--no-as-needed,${Libtorch_LIBRARY_DIR}/libtorch_cuda.so,${Libtorch_LIBRARY_DIR}/libc10_cuda.so,--pop-state")
  endif()
endif()
