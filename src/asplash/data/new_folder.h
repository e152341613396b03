#pragma once

#include <string>
#include <vector>

namespace asplash::data {

/// Makes a folder and those above it that are missing. What it made and nothing was put into goes with it, so
/// that a program that fails leaves no empty folders behind.
class NewFolder {
 public:
  /// Throws asplash::Error if there is no such folder and it cannot be made.
  explicit NewFolder(const std::string& path);
  ~NewFolder();
  NewFolder(NewFolder&&) noexcept = default;
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;
  NewFolder& operator=(NewFolder&&) = delete;

 private:
  std::vector<std::string> made_;  // the innermost first
};

}  // namespace asplash::data
