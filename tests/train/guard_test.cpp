#include "asplash/train/guard.h"

#include <gtest/gtest.h>

#include <cmath>
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

TEST(BadStepGuard, GoesOnCountingWhereItWasResumed) {
  BadStepGuard guard(3, 9, 2);
  EXPECT_EQ(guard.in_a_row(), 2);
  EXPECT_THROW(guard.observe(10, {}, true, kNan, 1.0), Error);
  BadStepGuard forgiven(3, 9, 2);
  forgiven.observe(10, {}, false, 1.0, 1.0);
  EXPECT_EQ(forgiven.in_a_row(), 0);
  forgiven.observe(11, {}, true, kNan, 1.0);
  EXPECT_EQ(forgiven.skipped_steps(), 10);
}

/// A falling loss with noise of +- 0.05.
double usual_loss(int64_t step) {
  return 3 + 4 * std::exp(-static_cast<double>(step) / 30) +
         0.05 * std::sin(12.9898 * static_cast<double>(step));
}

TEST(SpikeWatch, TellsSpikesFromNoiseAndFromAFallingLoss) {
  SpikeWatch watch(8, {});
  for (int64_t step = 1; step <= 2000; ++step) {
    const bool is_bad = step == 400 || step == 401 || step == 1500;
    EXPECT_EQ(watch.observe(is_bad ? 9.0 : usual_loss(step)), is_bad) << step;
  }
  EXPECT_FALSE(watch.observe(kNan)) << "the guard's matter";
  EXPECT_NEAR(watch.level().mean, 3, 0.2);
  EXPECT_EQ(watch.level().steps, 2000);
}

TEST(SpikeWatch, SaysNothingOfTheFirstStepsAndWithoutThreshold) {
  SpikeWatch first(8, {});
  for (int64_t step = 1; step <= SpikeWatch::kFirstSteps; ++step)
    EXPECT_FALSE(first.observe(step == 20 ? 99 : 1));
  SpikeWatch never(0, {});
  for (int64_t step = 1; step <= 200; ++step) EXPECT_FALSE(never.observe(step == 150 ? 99 : 1));
}

TEST(SpikeWatch, ALossThatStaysHighBecomesTheLevel) {
  SpikeWatch watch(8, {});
  for (int64_t step = 1; step <= 300; ++step) watch.observe(2);
  int64_t spikes = 0;
  for (int64_t step = 1; step <= 400; ++step) spikes += watch.observe(5) ? 1 : 0;
  EXPECT_GT(spikes, 0);
  EXPECT_LT(spikes, 100);
  EXPECT_FALSE(watch.observe(5));
}

TEST(SpikeWatch, GoesOnWhereItWasResumed) {
  SpikeWatch straight(8, {}), before(8, {});
  for (int64_t step = 1; step <= 77; ++step) {
    straight.observe(usual_loss(step));
    before.observe(usual_loss(step));
  }
  SpikeWatch after(8, before.level());
  for (int64_t step = 78; step <= 120; ++step) {
    EXPECT_EQ(straight.observe(usual_loss(step)), after.observe(usual_loss(step)));
  }
  EXPECT_EQ(straight.level().mean, after.level().mean);
  EXPECT_EQ(straight.level().deviation, after.level().deviation);
}

}  // namespace
}  // namespace asplash::train
