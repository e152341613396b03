#pragma once

#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>
#include <thread>

#include "asplash/base/error.h"

/// What keeps a process from writing, for tests. Each holds for its scope.
namespace asplash::train {

/// No file grows beyond `bytes` (as `ulimit -f`).
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limited{bytes, before_.rlim_max};
    if (setrlimit(RLIMIT_FSIZE, &limited) != 0) fail("cannot limit the size of files");
  }
  ~FileSizeLimit() { setrlimit(RLIMIT_FSIZE, &before_); }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
};

/// The folder may be read and not written, also by root: this thread, and those it starts, do without root's
/// privilege to pass over permissions.
class ReadOnlyFolder {
 public:
  explicit ReadOnlyFolder(std::string path) : path_(std::move(path)) {
    if (syscall(SYS_capget, &header_, before_) != 0) fail("cannot ask for capabilities");
    __user_cap_data_struct without[2] = {before_[0], before_[1]};
    without[0].effective &= ~(1U << CAP_DAC_OVERRIDE);
    if (syscall(SYS_capset, &header_, without) != 0) fail("cannot give capabilities up");
    if (::chmod(path_.c_str(), 0555) != 0) fail("cannot change the permissions of ", path_);
  }
  ~ReadOnlyFolder() {
    ::chmod(path_.c_str(), 0755);
    syscall(SYS_capset, &header_, before_);
  }
  ReadOnlyFolder(const ReadOnlyFolder&) = delete;
  ReadOnlyFolder& operator=(const ReadOnlyFolder&) = delete;

 private:
  std::string path_;
  __user_cap_header_struct header_{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct before_[2]{};
};

/// Calls `body` where `folder` is a file system of its own of `size` ("600k"), seen by that call alone. False
/// where the system does not permit that; `body` is not called then.
template <class Body>
bool on_small_file_system(const std::string& folder, const std::string& size, const Body& body) {
  bool mounted = false;
  std::thread([&] {
    // Mounts of this thread's own name space go with it.
    mounted = ::unshare(CLONE_NEWNS) == 0 &&
              ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
              ::mount("tmpfs", folder.c_str(), "tmpfs", 0, ("size=" + size).c_str()) == 0;
    if (mounted) body();
  }).join();
  return mounted;
}

/// To be called within on_small_file_system().
inline void resize_file_system(const std::string& folder, const std::string& size) {
  if (::mount("tmpfs", folder.c_str(), "tmpfs", MS_REMOUNT, ("size=" + size).c_str()) != 0) {
    fail("cannot resize the file system at ", folder);
  }
}

}  // namespace asplash::train
