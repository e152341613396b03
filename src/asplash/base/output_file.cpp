#include "asplash/base/output_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "asplash/base/files.h"

namespace asplash {

OutputFile::OutputFile(const std::string& path, const std::string& shown_path)
    : shown_path_(shown_path.empty() ? path : shown_path) {
  do {
    fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  } while (fd_ < 0 && errno == EINTR);
  if (fd_ < 0) fail_system("write", shown_path_, errno);
  path_ = path;
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!path_.empty()) ::unlink(path_.c_str());
}

void OutputFile::write(const void* data, size_t bytes) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t count = ::write(fd_, next, bytes);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_system("write", shown_path_, errno);
    next += count;
    bytes -= static_cast<size_t>(count);
  }
}

void OutputFile::write_at(const void* data, size_t bytes, uint64_t offset) {
  if (::lseek(fd_, static_cast<off_t>(offset), SEEK_SET) < 0) fail_system("write", shown_path_, errno);
  write(data, bytes);
}

void OutputFile::sync_and_close() {
  if (::fsync(fd_) != 0) fail_system("write", shown_path_, errno);
  // Network file systems report a full disk no earlier than here.
  if (::close(std::exchange(fd_, -1)) != 0) fail_system("write", shown_path_, errno);
}

void OutputFile::rename_to(const std::string& target) {
  if (::rename(path_.c_str(), target.c_str()) != 0) fail_system("write", target, errno);
  path_.clear();
}

}  // namespace asplash
