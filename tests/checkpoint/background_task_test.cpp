#include "asplash/checkpoint/background_task.h"

#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <stdexcept>
#include <vector>

namespace asplash::checkpoint {
namespace {

TEST(BackgroundTask, RunsBesideAndOneAfterTheOther) {
  BackgroundTask task;
  std::promise<void> gate;
  std::vector<int> order;
  task.start([&, open = gate.get_future().share()] {
    open.wait();
    order.push_back(1);
  });
  EXPECT_EQ(task.take_error(), nullptr) << "does not wait for it";
  gate.set_value();
  task.start([&] { order.push_back(2); });
  task.wait();
  EXPECT_EQ(order, (std::vector<int>{1, 2}));
}

TEST(BackgroundTask, HandsItsErrorOverOnce) {
  BackgroundTask task;
  task.start([] { throw std::runtime_error("full"); });
  task.wait();
  const std::exception_ptr error = task.take_error();
  ASSERT_NE(error, nullptr);
  EXPECT_THROW(std::rethrow_exception(error), std::runtime_error);
  EXPECT_EQ(task.take_error(), nullptr);
  task.start([] {});
  task.wait();
  EXPECT_EQ(task.take_error(), nullptr);
}

TEST(BackgroundTask, ErrorsAppearWhileTheLoopGoesOn) {
  BackgroundTask task;
  task.start([] { throw std::runtime_error("full"); });
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  std::exception_ptr error;
  while (!error && std::chrono::steady_clock::now() < deadline) error = task.take_error();
  EXPECT_NE(error, nullptr);
}

TEST(BackgroundTask, TheDestructorWaits) {
  bool ended = false;
  {
    BackgroundTask task;
    task.start([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      ended = true;
    });
  }
  EXPECT_TRUE(ended);
}

TEST(BackgroundTask, ManyTasksSeeEachOthersWork) {
  BackgroundTask task;
  int64_t sum = 0;
  for (int64_t i = 1; i <= 200; ++i) {
    task.start([&sum, i] { sum += i; });
    if (i % 3 == 0) task.take_error();
  }
  task.wait();
  EXPECT_EQ(sum, 20100);
}

}  // namespace
}  // namespace asplash::checkpoint
