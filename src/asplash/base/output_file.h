#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace asplash {

/// A file being written anew. The destructor closes it and, unless it was kept or renamed, removes it. Every
/// failure throws asplash::Error that names the path and the system's reason.
class OutputFile {
 public:
  /// Errors name `shown_path`, where the user knows the file by another name than `path`.
  explicit OutputFile(const std::string& path, const std::string& shown_path = "");
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  const std::string& path() const { return path_; }
  void write(const void* data, size_t bytes);
  void write_at(const void* data, size_t bytes, uint64_t offset);
  /// Flushes to the disk and closes.
  void sync_and_close();
  /// The destructor leaves the file where it is.
  void keep() { path_.clear(); }
  /// Renames to `target`, and keeps it.
  void rename_to(const std::string& target);

 private:
  std::string path_;  ///< empty: nothing is to be removed
  std::string shown_path_;
  int fd_ = -1;
};

}  // namespace asplash
