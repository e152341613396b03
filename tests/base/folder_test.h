#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "asplash/base/error.h"
#include "temporary_folder.h"

namespace asplash::testing {

/// A fixture with a folder of its own, removed afterwards.
class FolderTest : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  size_t files() const {
    const std::filesystem::directory_iterator all(folder_);
    return static_cast<size_t>(std::distance(begin(all), end(all)));
  }

  const asplash::TemporaryFolder made_;
  const std::filesystem::path folder_ = made_.path();
};

/// The message of the Error that `action` throws; empty where it throws nothing.
template <class Action>
std::string error_of(Action action) {
  try {
    action();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace asplash::testing
