#pragma once

#include <stdlib.h>

#include <filesystem>
#include <string>

#include "asplash/base/error.h"

namespace asplash {

/// A folder of its own for a test; removed with all that is in it.
class TemporaryFolder {
 public:
  TemporaryFolder() : path_((std::filesystem::temp_directory_path() / "asplash-test-XXXXXX").string()) {
    if (::mkdtemp(path_.data()) == nullptr) fail("cannot make the folder ", path_);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace asplash
