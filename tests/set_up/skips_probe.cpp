// Tests with known ends, for skips_test.cmake.
#include <gtest/gtest.h>

TEST(ProbeGpu, Skips) { GTEST_SKIP() << "no CUDA device: GPU tests skipped"; }
TEST(ProbeGpu, SkipsToo) { GTEST_SKIP() << "no CUDA device: GPU tests skipped"; }
TEST(ProbeGpu, Passes) {}
TEST(ProbeGpu, Fails) { FAIL() << "on purpose, and says: no CUDA device: GPU tests skipped"; }
TEST(Probe, Skips) { GTEST_SKIP() << "something else is missing"; }
TEST(Probe, Passes) {}
