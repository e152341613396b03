#include "asplash/data/new_folder.h"

#include <unistd.h>

#include <filesystem>

#include "asplash/base/error.h"

namespace asplash::data {
namespace fs = std::filesystem;

NewFolder::NewFolder(const std::string& path) {
  std::error_code error;
  for (fs::path folder = fs::absolute(path).lexically_normal(); !fs::exists(folder, error);
       folder = folder.parent_path()) {
    if (folder.has_filename()) made_.push_back(folder.string());
    if (!folder.has_relative_path()) break;
  }
  fs::create_directories(path, error);
  // A file in the folder's place counts as success to create_directories() of some libraries.
  if (!error && !fs::is_directory(path, error)) error = std::make_error_code(std::errc::not_a_directory);
  if (error) fail("cannot make the folder ", path, ": ", error.message());
}

NewFolder::~NewFolder() {
  for (const std::string& folder : made_) {
    if (::rmdir(folder.c_str()) != 0) return;  // not empty
  }
}

}  // namespace asplash::data
