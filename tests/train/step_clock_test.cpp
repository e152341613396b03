#include "asplash/train/step_clock.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <thread>

#include "train/small_run.h"

namespace asplash::train {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

TEST(StepClock, TimesEachStepByItself) {
  StepClock clock(ops::choose_device("cpu"));
  clock.restart();
  const auto begin = Clock::now();
  for (const int milliseconds : {30, 0, 60}) {
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    clock.step_handed_over();
  }
  const double all = since(begin);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // belongs to no step
  clock.restart();
  clock.step_handed_over();
  const std::vector<double> times = clock.take();
  ASSERT_EQ(times.size(), 4U);
  EXPECT_GE(times[0], 30);
  EXPECT_GE(times[2], 60);
  EXPECT_NEAR(times[0] + times[1] + times[2], all, 5);
  EXPECT_LT(times[3], 45);
  EXPECT_TRUE(clock.take().empty());
}

/// The metrics of a run that reports every five steps: each step has a time of its own.
TEST(StepClock, StepsThatAreReportedTogetherHaveTheirOwnTimes) {
  const SmallRun small;
  const auto begin = Clock::now();
  small.train({"train.log_every=5"});
  const double all = since(begin);
  std::vector<double> times;
  for (const auto& line : metrics_of(small.run_folder())) {
    if (line.contains("event")) continue;
    times.push_back(line["step_ms"]);
    EXPECT_NEAR(line["tokens_per_second"].get<double>() * times.back() / 1000, 512, 1e-6);
  }
  ASSERT_EQ(times.size(), 20U);
  for (size_t group = 0; group < times.size(); group += 5) {
    EXPECT_NE(*std::min_element(&times[group], &times[group] + 5),
              *std::max_element(&times[group], &times[group] + 5));
  }
  EXPECT_LT(std::accumulate(times.begin(), times.end(), 0.0), all);
}

/// Steps of known sizes on a GPU, without waiting between them.
TEST(StepClockGpu, TimesWhatTheDeviceDoes) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device: GPU tests skipped";
  const ops::DeviceInfo device = ops::choose_device("cuda");
  const at::Tensor a = at::randn({4096, 4096}, at::TensorOptions(at::Device(device.name)));
  at::Tensor b = a.matmul(a);
  ops::synchronize(device);
  StepClock clock(device);
  clock.restart();
  const auto begin = Clock::now();
  for (const int products : {40, 4, 40}) {
    for (int i = 0; i < products; ++i) b = a.matmul(a);
    clock.step_handed_over();
  }
  const double handed_over = since(begin);
  ops::synchronize(device);
  const double all = since(begin);
  const std::vector<double> times = clock.take();
  ASSERT_EQ(times.size(), 3U);
  EXPECT_LT(handed_over, 0.5 * all) << "the clock waited for the device";
  EXPECT_GT(times[0], 4 * times[1]);
  EXPECT_GT(times[2], 4 * times[1]);
  EXPECT_NEAR(times[0] + times[1] + times[2], all, 0.2 * all);
}

}  // namespace
}  // namespace asplash::train
