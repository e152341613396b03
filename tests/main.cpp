// main() of the test programs. The status tells CTest whether anything was tested: 77 (its SKIP_RETURN_CODE)
// where every test that was asked for was skipped, as GPU tests are on a machine without one.
// ASPLASH_REQUIRE_GPU=1 turns skipped GPU tests into a failure: for machines that are there to run them.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <iostream>

namespace {

constexpr int kAllSkipped = 77;

int skipped_gpu_tests(const testing::UnitTest& tests) {
  int skipped = 0;
  for (int s = 0; s < tests.total_test_suite_count(); ++s) {
    const testing::TestSuite& suite = *tests.GetTestSuite(s);
    if (std::strstr(suite.name(), "Gpu") != nullptr) skipped += suite.skipped_test_count();
  }
  return skipped;
}

bool is_gpu_required() {
  const char* value = std::getenv("ASPLASH_REQUIRE_GPU");
  return value != nullptr && std::strcmp(value, "") != 0 && std::strcmp(value, "0") != 0;
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const int status = RUN_ALL_TESTS();
  const testing::UnitTest& tests = *testing::UnitTest::GetInstance();
  const int skipped_on_gpu = skipped_gpu_tests(tests);
  if (is_gpu_required() && skipped_on_gpu > 0) {
    std::cerr << "ASPLASH_REQUIRE_GPU is set, and " << skipped_on_gpu << " GPU tests were skipped\n";
    return 1;
  }
  const int run = tests.test_to_run_count();
  return status == 0 && run > 0 && tests.skipped_test_count() == run ? kAllSkipped : status;
}
