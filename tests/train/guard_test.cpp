#include "asplash/train/guard.h"

#include <gtest/gtest.h>

#include <limits>

#include "asplash/base/error.h"

namespace asplash::train {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

TEST(BadStepGuard, CountsAndForgivesSingleSteps) {
  BadStepGuard guard(2, 5);
  for (int64_t step = 1; step <= 20; ++step)
    guard.observe(step, {}, step % 2 == 0, step % 2 == 0 ? kNan : 1.0, 1.0);
  EXPECT_EQ(guard.skipped_steps(), 15);
}

TEST(BadStepGuard, StopsAfterTooManyInARowNamingStepAndData) {
  BadStepGuard guard(3, 0);
  guard.observe(7, {1, 40}, true, kNan, 1.0);
  guard.observe(8, {1, 48}, true, kNan, 1.0);
  try {
    guard.observe(9, {1, 56}, true, kNan, 1.0);
    FAIL() << "went on";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("step 9 (data from epoch 1, sample 56)"), std::string::npos) << message;
    EXPECT_NE(message.find("after step 6"), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace asplash::train
