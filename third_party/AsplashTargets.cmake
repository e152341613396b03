# How this project's own targets are made: warnings, sanitizers, precompiled header, tests.

set(ASPLASH_WARNINGS -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual)
if(ASPLASH_WERROR)
  list(APPEND ASPLASH_WARNINGS -Werror)
endif()

set(CMAKE_BUILD_RPATH "${Libtorch_LIBRARY_DIR}")
set(ASPLASH_INSTALL_RPATH "" CACHE STRING "Where installed programs look for libtorch; empty: where it lies now")
set(CMAKE_INSTALL_RPATH "${ASPLASH_INSTALL_RPATH}")
if(NOT ASPLASH_INSTALL_RPATH)
  set(CMAKE_INSTALL_RPATH "${Libtorch_LIBRARY_DIR}")
endif()

# ccache, where it is; paths below the source folder are hashed relatively, so that clones share what they compile.
# A precompiled header is only cached with these two relaxations, and -fpch-preprocess below:
# https://ccache.dev/manual/latest.html#_precompiled_headers
find_program(ASPLASH_CCACHE ccache)
foreach(_language CXX CUDA)
  if(ASPLASH_CCACHE AND "${CMAKE_${_language}_COMPILER_LAUNCHER}" MATCHES "^(.*/)?(ccache)?$")
    set(CMAKE_${_language}_COMPILER_LAUNCHER "${CMAKE_COMMAND}" -E env CCACHE_SLOPPINESS=pch_defines,time_macros
      "CCACHE_BASEDIR=${PROJECT_SOURCE_DIR}" CCACHE_NOHASHDIR=true "${ASPLASH_CCACHE}")
  endif()
endforeach()

function(asplash_options target)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${ASPLASH_WARNINGS}>)
  target_include_directories(${target} PUBLIC "${PROJECT_SOURCE_DIR}/src")
  if(ASPLASH_SANITIZE)
    target_compile_options(${target} PUBLIC
      $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${ASPLASH_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all>)
    target_link_options(${target} PUBLIC -fsanitize=${ASPLASH_SANITIZE})
  endif()
endfunction()

# Libtorch for a target, its CUDA half too in a CUDA build, and the one precompiled header: libtorch takes seconds
# to parse, so all targets that use it share this.
add_library(asplash_torch INTERFACE)
target_link_libraries(asplash_torch INTERFACE Libtorch::Libtorch)
if(ASPLASH_HAVE_CUDA)
  target_link_libraries(asplash_torch INTERFACE Libtorch::cuda)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # g++ 13 sees out-of-bounds copies in the std::vector<bool> of libtorch's autograd::Function::apply, inlined into
  # our files (GCC bug 110498); the sanitizer build finds real ones.
  target_compile_options(asplash_torch INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess;-Wno-array-bounds;-Wno-stringop-overflow>)
endif()
function(asplash_torch_header name)
  add_library(${name} OBJECT "${PROJECT_SOURCE_DIR}/third_party/torch_pch.cpp")
  target_link_libraries(${name} PUBLIC asplash_torch)
  asplash_options(${name})
  target_precompile_headers(${name} PRIVATE "${PROJECT_SOURCE_DIR}/third_party/torch_pch.h")
endfunction()
# Position-independent, for what also goes into a shared library (asplash_ops_python); a precompiled header serves
# only files compiled alike.
asplash_torch_header(asplash_torch_pch)
set_target_properties(asplash_torch_pch PROPERTIES POSITION_INDEPENDENT_CODE ON)

# Tests: what is tested is optimized; the tests themselves compile a third faster with less. A precompiled header
# only serves files of the same optimization level, so tests have one of their own.
set(ASPLASH_TEST_OPTIONS $<$<CONFIG:Release>:-O1>)
if(ASPLASH_TESTS)
  asplash_torch_header(asplash_torch_test_pch)
  target_compile_options(asplash_torch_test_pch PRIVATE ${ASPLASH_TEST_OPTIONS})
  add_library(asplash_test_main OBJECT "${PROJECT_SOURCE_DIR}/tests/main.cpp")
  asplash_options(asplash_test_main)
  target_link_libraries(asplash_test_main PUBLIC GTest::gtest)
endif()

# asplash_library(NAME room [TORCH] SOURCES ... LINK ...): static library asplash_<room>.
function(asplash_library)
  cmake_parse_arguments(ARG "TORCH" "NAME" "SOURCES;LINK" ${ARGN})
  add_library(asplash_${ARG_NAME} STATIC ${ARG_SOURCES})
  asplash_options(asplash_${ARG_NAME})
  target_link_libraries(asplash_${ARG_NAME} PUBLIC ${ARG_LINK})
  if(ARG_TORCH)
    target_link_libraries(asplash_${ARG_NAME} PUBLIC asplash_torch)
    set_target_properties(asplash_${ARG_NAME} PROPERTIES POSITION_INDEPENDENT_CODE ON)
    target_precompile_headers(asplash_${ARG_NAME} REUSE_FROM asplash_torch_pch)
  endif()
endfunction()

# asplash_test(NAME room [TORCH] SOURCES ... LINK ...): program asplash_<room>_tests and its CTest entries:
# `room` (everything but suites named *Gpu*) and, where there are any GPU suites, `room.gpu`, labelled gpu, which is
# skipped without a GPU, or fails there if ASPLASH_REQUIRE_GPU=1 (see tests/main.cpp).
function(asplash_test)
  cmake_parse_arguments(ARG "TORCH;GPU" "NAME;TIMEOUT" "SOURCES;LINK" ${ARGN})
  set(target asplash_${ARG_NAME}_tests)
  add_executable(${target} ${ARG_SOURCES})
  asplash_options(${target})
  target_compile_options(${target} PRIVATE ${ASPLASH_TEST_OPTIONS})
  target_link_libraries(${target} PRIVATE ${ARG_LINK} asplash_test_main)
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/tests")
  target_compile_definitions(${target} PRIVATE ASPLASH_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
    ASPLASH_BIN_DIR="${PROJECT_BINARY_DIR}/bin")
  if(ARG_TORCH)
    target_link_libraries(${target} PRIVATE asplash_torch)
    target_precompile_headers(${target} REUSE_FROM asplash_torch_test_pch)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  add_test(NAME ${ARG_NAME} COMMAND ${target} --gtest_filter=-*Gpu*)
  set_tests_properties(${ARG_NAME} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS cpu)
  if(ARG_GPU)
    add_test(NAME ${ARG_NAME}.gpu COMMAND ${target} --gtest_filter=*Gpu*)
    set_tests_properties(${ARG_NAME}.gpu PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS gpu SKIP_RETURN_CODE 77)
  endif()
endfunction()
