#pragma once

#include <string>
#include <vector>

namespace asplash::train {

/// A run folder for one process at a time: an exclusive flock(2) on RUN/.lock, which holds "PID HOST". The
/// system gives the lock back however the process ends; the file of a killed one is taken over.
class RunLock {
 public:
  /// Makes the folder where there is none. Throws asplash::Error naming the process that holds the lock, or
  /// why the folder cannot be written. Only warns on file systems without locks.
  explicit RunLock(const std::string& run_folder);
  /// Removes the file, and the folders that were made for it if nothing came into them.
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  bool acquire();

  std::string path_;
  std::vector<std::string> made_;  ///< folders, the innermost first
  int fd_ = -1;
};

}  // namespace asplash::train
