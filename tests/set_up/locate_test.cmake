# A libtorch or CUDA compiler that is named and does not fit is refused by its name, never passed over; without a
# name the search goes on. Run by CTest as: cmake -DROOT=<source folder> -DFOLDER=<scratch> -P locate_test.cmake

# expect(SCRIPT SETTING STATUS TEXT): the search of third_party/SCRIPT under the environment SETTING ends with STATUS
# (0, or "not 0") and says TEXT, a regular expression.
function(expect script setting status text)
  execute_process(COMMAND "${CMAKE_COMMAND}" -E env --unset=Torch_DIR --unset=CUDACXX ${setting}
      "${CMAKE_COMMAND}" -P "${ROOT}/third_party/${script}"
    OUTPUT_VARIABLE out ERROR_VARIABLE err RESULT_VARIABLE result)
  string(REGEX REPLACE "[ \n]+" " " said "${out}${err}")
  if((result EQUAL 0) STREQUAL (status EQUAL 0) AND said MATCHES "${text}")
    return()
  endif()
  message(SEND_ERROR "${script} with ${setting}: status ${result} (expected ${status}), expected '${text}':\n${said}")
endfunction()

# Programs that say what nvcc of some version would.
function(make_nvcc name version)
  file(WRITE "${FOLDER}/${name}" "#!/bin/sh\necho 'release, V${version}'\n")
  file(CHMOD "${FOLDER}/${name}" PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)
endfunction()
# Folders that look like libtorch of some version.
function(make_libtorch name major minor)
  file(WRITE "${FOLDER}/${name}/include/torch/headeronly/version.h"
    "#define TORCH_VERSION_MAJOR ${major}\n#define TORCH_VERSION_MINOR ${minor}\n#define TORCH_VERSION_PATCH 0\n")
  file(WRITE "${FOLDER}/${name}/lib/libtorch_cpu.so" "")
  file(MAKE_DIRECTORY "${FOLDER}/${name}/share/cmake/Torch")
endfunction()

file(REMOVE_RECURSE "${FOLDER}")
make_nvcc(nvcc-13 13.0.88)
make_nvcc(nvcc-12 12.4.1)
make_libtorch(torch-fits 2 11)
make_libtorch(torch-later 2 12)

expect(LocateLibtorch.cmake "Torch_DIR=${FOLDER}/torch-fits/share/cmake/Torch" 0 "^2.11.0 ${FOLDER}/torch-fits\n?")
expect(LocateLibtorch.cmake "Torch_DIR=${FOLDER}/torch-later/share/cmake/Torch" "not 0" "Torch_DIR is '${FOLDER}/torch-later/.*libtorch 2.12.0 in")
expect(LocateLibtorch.cmake "Torch_DIR=/nowhere/share/cmake/Torch" "not 0" "Torch_DIR is '/nowhere/share/cmake/Torch'")
expect(LocateLibtorch.cmake "Torch_DIR=" 0 "")
expect(LocateCuda.cmake "CUDACXX=${FOLDER}/nvcc-13" 0 "^13.0.88 ${FOLDER}/nvcc-13")
expect(LocateCuda.cmake "CUDACXX=${FOLDER}/nvcc-12" "not 0" "CUDACXX is '${FOLDER}/nvcc-12'.*nvcc 12.4.1 in")
expect(LocateCuda.cmake "CUDACXX=/nowhere/nvcc" "not 0" "CUDACXX is '/nowhere/nvcc'")
expect(LocateCuda.cmake "CUDACXX=g++" "not 0" "CUDACXX is 'g..'")
expect(LocateCuda.cmake "CUDACXX=" 0 "")
