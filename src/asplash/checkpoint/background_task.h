#pragma once

#include <atomic>
#include <exception>
#include <functional>
#include <thread>

namespace asplash::checkpoint {

/// One task at a time on a thread of its own: what saves a checkpoint while training goes on. All calls from
/// one thread.
class BackgroundTask {
 public:
  BackgroundTask() = default;
  ~BackgroundTask();  ///< waits; an error that nobody took is lost
  BackgroundTask(const BackgroundTask&) = delete;
  BackgroundTask& operator=(const BackgroundTask&) = delete;

  /// Waits for the task before, then starts this one. An error of the one before must have been taken.
  void start(std::function<void()> task);
  void wait();
  /// What an ended task threw, once; null while it still runs, or where it threw nothing. Does not wait.
  std::exception_ptr take_error();

 private:
  std::thread thread_;
  std::atomic<bool> running_{false};
  std::exception_ptr error_;  ///< written by the thread before running_ becomes false
};

}  // namespace asplash::checkpoint
