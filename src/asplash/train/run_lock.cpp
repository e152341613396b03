#include "asplash/train/run_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/base/log.h"

namespace asplash::train {
namespace {

namespace fs = std::filesystem;

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

/// "process 17 on host7"; what the holder wrote may not be there yet.
std::string holder_of(const std::string& path) {
  std::string text;
  try {
    text = read_file(path);
  } catch (const Error&) {
    // Just removed by its holder, who is about to end.
  }
  while (!text.empty() && text.back() == '\n') text.pop_back();
  const size_t space = text.find(' ');
  if (space == std::string::npos) return "another process";
  return "process " + text.substr(0, space) + " on " + text.substr(space + 1);
}

/// The folder and those around it that are not there yet, the innermost first.
std::vector<std::string> missing_folders(const std::string& folder) {
  std::vector<std::string> missing;
  std::error_code error;
  fs::path path = fs::absolute(folder, error).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();  // "run/"
  for (; !error && path.has_relative_path() && !fs::exists(path, error); path = path.parent_path())
    missing.push_back(path.string());
  return missing;
}

}  // namespace

RunLock::RunLock(const std::string& run_folder)
    : path_(run_folder + "/.lock"), made_(missing_folders(run_folder)) {
  std::error_code error;
  fs::create_directories(run_folder, error);
  if (error) fail("cannot create the run folder ", run_folder, ": ", error.message());
  while (!acquire()) {
  }
  const std::string holder = str(::getpid(), " ", host_name(), "\n");
  if (::ftruncate(fd_, 0) != 0 ||
      ::pwrite(fd_, holder.data(), holder.size(), 0) != static_cast<ssize_t>(holder.size())) {
    const int reason = errno;
    ::close(fd_);
    fail("cannot write ", path_, ": ", std::strerror(reason));
  }
}

RunLock::~RunLock() {
  ::unlink(path_.c_str());  // while the lock is held: nobody else can have taken it over
  for (const std::string& folder : made_) {
    if (::rmdir(folder.c_str()) != 0) break;  // not empty
  }
  ::close(fd_);
}

/// False if the file was removed by its last holder between open() and flock(): then it is another file that
/// counts.
bool RunLock::acquire() {
  fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("cannot write into the run folder: ", path_, ": ", std::strerror(errno));
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    const int reason = errno;
    if (reason == EWOULDBLOCK) {
      ::close(fd_);
      fail("run folder ", fs::path(path_).parent_path().string(), " is in use by ", holder_of(path_),
           ": wait for it, stop it, or set train.output to another folder");
    }
    log::warning(str(path_, " cannot be locked (", std::strerror(reason),
                     "): do not start a second run in this folder"));
    return true;
  }
  struct stat mine {
  }, there{};
  if (::fstat(fd_, &mine) == 0 && ::stat(path_.c_str(), &there) == 0 && mine.st_ino == there.st_ino &&
      mine.st_dev == there.st_dev) {
    return true;
  }
  ::close(fd_);
  return false;
}

}  // namespace asplash::train
