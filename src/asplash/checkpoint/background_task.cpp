#include "asplash/checkpoint/background_task.h"

#include <utility>

namespace asplash::checkpoint {

BackgroundTask::~BackgroundTask() { wait(); }

void BackgroundTask::start(std::function<void()> task) {
  wait();
  error_ = nullptr;
  running_ = true;
  thread_ = std::thread([this, task = std::move(task)] {
    try {
      task();
    } catch (...) {
      error_ = std::current_exception();
    }
    running_ = false;
  });
}

void BackgroundTask::wait() {
  if (thread_.joinable()) thread_.join();
}

std::exception_ptr BackgroundTask::take_error() {
  if (running_) return nullptr;
  return std::exchange(error_, nullptr);
}

}  // namespace asplash::checkpoint
