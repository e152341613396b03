#include "asplash/optim/schedule.h"

#include <gtest/gtest.h>

namespace asplash::optim {
namespace {

OptimConfig with(Schedule schedule) {
  OptimConfig config;
  config.lr = 3e-4;
  config.lr_min_ratio = 0.1;
  config.warmup_steps = 40;
  config.decay_share = 0.25;
  config.schedule = schedule;
  return config;
}

constexpr Schedule kDecaying[] = {Schedule::cosine, Schedule::linear, Schedule::warmup_stable_decay};

TEST(Schedule, WarmsUpLinearlyToThePeak) {
  for (const Schedule schedule : kDecaying) {
    const OptimConfig config = with(schedule);
    EXPECT_DOUBLE_EQ(learning_rate(config, 1, 400), config.lr / 40);
    EXPECT_DOUBLE_EQ(learning_rate(config, 20, 400), config.lr / 2);
    EXPECT_EQ(learning_rate(config, 40, 400), config.lr);
    EXPECT_LE(learning_rate(config, 41, 400), config.lr);
  }
}

TEST(Schedule, ReachesTheFloorExactlyAtTheLastStep) {
  for (const Schedule schedule : kDecaying) {
    for (const int64_t steps : {41, 100, 399, 1000000}) {
      const OptimConfig config = with(schedule);
      EXPECT_EQ(learning_rate(config, steps, steps), config.lr * config.lr_min_ratio);
      EXPECT_EQ(learning_rate(config, steps + 7, steps), config.lr * config.lr_min_ratio);
      EXPECT_GE(learning_rate(config, steps - 1, steps), config.lr * config.lr_min_ratio);
    }
  }
}

TEST(Schedule, NeverRisesAfterWarmUpNorFallsBefore) {
  for (const Schedule schedule : kDecaying) {
    const OptimConfig config = with(schedule);
    for (int64_t step = 2; step <= 400; ++step) {
      const double before = learning_rate(config, step - 1, 400);
      const double now = learning_rate(config, step, 400);
      if (step <= 40) {
        EXPECT_GT(now, before) << step;
      } else {
        EXPECT_LE(now, before) << step;
      }
    }
  }
}

TEST(Schedule, HalfWayValues) {
  OptimConfig config = with(Schedule::cosine);
  const double middle = config.lr * (1 + config.lr_min_ratio) / 2;
  EXPECT_NEAR(learning_rate(config, 220, 400), middle, 1e-15);
  config.schedule = Schedule::linear;
  EXPECT_NEAR(learning_rate(config, 220, 400), middle, 1e-15);
  config.schedule = Schedule::warmup_stable_decay;
  EXPECT_EQ(learning_rate(config, 300, 400), config.lr);
  EXPECT_LT(learning_rate(config, 301, 400), config.lr);
  EXPECT_NEAR(learning_rate(config, 350, 400), middle, 1e-15);
  config.schedule = Schedule::constant;
  EXPECT_EQ(learning_rate(config, 400, 400), config.lr);
}

TEST(Schedule, WithoutWarmUpStartsAtThePeak) {
  for (const Schedule schedule : kDecaying) {
    OptimConfig config = with(schedule);
    config.warmup_steps = 0;
    EXPECT_EQ(learning_rate(config, 1, 10), config.lr);
    EXPECT_EQ(learning_rate(config, 10, 10), config.lr * config.lr_min_ratio);
    EXPECT_EQ(learning_rate(config, 1, 1), config.lr);
  }
}

TEST(Schedule, DecayOfTheWholeRunStartsAfterWarmUp) {
  OptimConfig config = with(Schedule::warmup_stable_decay);
  config.decay_share = 1;
  EXPECT_EQ(learning_rate(config, 40, 400), config.lr);
  EXPECT_LT(learning_rate(config, 41, 400), config.lr);
  EXPECT_EQ(learning_rate(config, 400, 400), config.lr * config.lr_min_ratio);
  config.decay_share = 1e-9;  // rounds to no step: the last one still reaches the floor
  EXPECT_EQ(learning_rate(config, 399, 400), config.lr);
  EXPECT_EQ(learning_rate(config, 400, 400), config.lr * config.lr_min_ratio);
}

}  // namespace
}  // namespace asplash::optim
