# Every dependency: what is needed, which version, where it is looked for.
#
#   libtorch 2.11        PyPI torch==2.11.0 (see FindLibtorch.cmake)
#   yaml-cpp >= 0.7      Debian/Ubuntu libyaml-cpp-dev
#   spdlog >= 1.10       libspdlog-dev
#   CLI11 >= 2.1         libcli11-dev (header only)
#   nlohmann/json >= 3.11  nlohmann-json3-dev (header only)
#   SentencePiece        libsentencepiece-dev (no CMake package: found by header and library)
#   xxHash >= 0.8        libxxhash-dev (header only use)
#   libarchive >= 3.6    libarchive-dev; without it .xz/.zst/.bz2 corpora are refused at run time
#   zlib >= 1.2          zlib1g-dev; without it .gz corpora are refused at run time
#   GoogleTest >= 1.12   libgtest-dev, tests only
#   CUDA Toolkit 13.0    optional: machine's nvcc, or PyPI cuda-toolkit (scripts/lib/setup.sh)

find_package(Threads REQUIRED)
find_package(Libtorch REQUIRED)

find_package(yaml-cpp 0.7 REQUIRED)
if(NOT TARGET yaml-cpp::yaml-cpp) # 0.7 exports the plain name
  add_library(yaml-cpp::yaml-cpp ALIAS yaml-cpp)
endif()
find_package(spdlog 1.10 REQUIRED)

# Debian 12's CLI11 and nlohmann-json packages are header-only.
find_path(ASPLASH_CLI11_INCLUDE CLI/CLI.hpp REQUIRED)
find_path(ASPLASH_JSON_INCLUDE nlohmann/json.hpp REQUIRED)
find_path(ASPLASH_XXHASH_INCLUDE xxhash.h REQUIRED)
add_library(asplash_headers INTERFACE)
target_include_directories(asplash_headers SYSTEM INTERFACE
  "${ASPLASH_CLI11_INCLUDE}" "${ASPLASH_JSON_INCLUDE}" "${ASPLASH_XXHASH_INCLUDE}")

find_path(ASPLASH_SENTENCEPIECE_INCLUDE sentencepiece_processor.h REQUIRED)
find_library(ASPLASH_SENTENCEPIECE_LIBRARY sentencepiece REQUIRED)
find_library(ASPLASH_SENTENCEPIECE_TRAIN_LIBRARY sentencepiece_train REQUIRED)
add_library(asplash_sentencepiece INTERFACE)
target_include_directories(asplash_sentencepiece SYSTEM INTERFACE "${ASPLASH_SENTENCEPIECE_INCLUDE}")
target_link_libraries(asplash_sentencepiece INTERFACE
  "${ASPLASH_SENTENCEPIECE_TRAIN_LIBRARY}" "${ASPLASH_SENTENCEPIECE_LIBRARY}")

find_package(LibArchive 3.6)
if(NOT LibArchive_FOUND)
  message(WARNING "libarchive not found: programs are built without .xz/.zst/.bz2 input")
endif()
find_package(ZLIB 1.2)
if(NOT ZLIB_FOUND)
  message(WARNING "zlib not found: programs are built without .gz input")
endif()

if(ASPLASH_TESTS)
  find_package(GTest 1.12 REQUIRED)
endif()

# CUDA: AUTO builds it wherever both a CUDA compiler and a CUDA build of libtorch are.
set(ASPLASH_HAVE_CUDA OFF)
if(NOT ASPLASH_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "ASPLASH_CUDA is '${ASPLASH_CUDA}'; it may be AUTO, ON or OFF")
endif()
if(NOT ASPLASH_CUDA STREQUAL "OFF")
  include(LocateCuda)
  foreach(_line IN LISTS Cuda_PASSED_OVER)
    message(STATUS "${_line} passed over: 12.8 to 13 is needed")
  endforeach()
  if(Cuda_NVCC AND Libtorch_HAS_CUDA)
    set(CMAKE_CUDA_COMPILER "${Cuda_NVCC}" CACHE FILEPATH "CUDA compiler")
    # Code for Ampere (also the portable PTX for everything later) and Hopper's own instructions.
    set(CMAKE_CUDA_ARCHITECTURES "80-real;80-virtual;90a-real" CACHE STRING "CUDA architectures")
    enable_language(CUDA)
    # The C++ compiler links all programs. What nvcc's host compiler, which may be another one, would look in and add
    # must not reach them: its folder can hold a static libstdc++, and a second one beside libtorch's ends in crashes.
    set(CMAKE_CUDA_IMPLICIT_LINK_DIRECTORIES "")
    set(CMAKE_CUDA_IMPLICIT_LINK_LIBRARIES "")
    set(CMAKE_CUDA_RUNTIME_LIBRARY None) # CUDA::cudart_static, by its path
    set(CMAKE_CUDA_STANDARD 17)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    find_package(CUDAToolkit 12.8 REQUIRED)
    # Headers such as c10/cuda/CUDAStream.h include CUDA's own.
    target_link_libraries(Libtorch::cuda INTERFACE CUDA::cudart_static)
    set(ASPLASH_HAVE_CUDA ON)
  elseif(ASPLASH_CUDA STREQUAL "ON")
    message(FATAL_ERROR "ASPLASH_CUDA=ON, but the CUDA compiler found is '${Cuda_NVCC}' and the libtorch in "
      "${Libtorch_ROOT_DIR} has CUDA: ${Libtorch_HAS_CUDA}. Put nvcc of CUDA 12.8 to 13 on PATH (or set CUDACXX) "
      "and use a CUDA build of libtorch, or set ASPLASH_CUDA=OFF.")
  endif()
endif()
message(STATUS "asplash: CUDA parts ${ASPLASH_HAVE_CUDA} ${Cuda_VERSION}, libtorch ${Libtorch_VERSION} in ${Libtorch_ROOT_DIR}")
