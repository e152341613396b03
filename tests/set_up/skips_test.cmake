# What a test program's status says where tests are skipped. Run by CTest as: cmake -DPROBE=<program> -P skips_test.cmake

# expect(STATUS FILTER [SETTING]): the tests of the probe that FILTER names end with STATUS.
function(expect status filter)
  execute_process(COMMAND "${CMAKE_COMMAND}" -E env --unset=ASPLASH_REQUIRE_GPU ${ARGN} "${PROBE}" "--gtest_filter=${filter}"
    OUTPUT_VARIABLE said ERROR_VARIABLE said RESULT_VARIABLE result)
  if(NOT result EQUAL status)
    message(SEND_ERROR "${filter} ${ARGN}: status ${result}, expected ${status}:\n${said}")
  endif()
endfunction()

expect(77 "ProbeGpu.Skips*")
expect(0 "ProbeGpu.Skips:ProbeGpu.Passes")
expect(1 "ProbeGpu.Skips:ProbeGpu.Fails")
expect(1 "ProbeGpu.Fails")
expect(0 "*Passes")
expect(0 "Probe.*")
expect(1 "ProbeGpu.Skips*" ASPLASH_REQUIRE_GPU=1)
expect(1 "ProbeGpu.Skips:ProbeGpu.Passes" ASPLASH_REQUIRE_GPU=1)
expect(0 "ProbeGpu.Passes" ASPLASH_REQUIRE_GPU=1)
expect(0 "Probe.*" ASPLASH_REQUIRE_GPU=1) # nothing of it needs a GPU
expect(77 "ProbeGpu.Skips" ASPLASH_REQUIRE_GPU=0)
