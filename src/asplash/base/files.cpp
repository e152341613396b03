#include "asplash/base/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "asplash/base/error.h"
#include "asplash/base/output_file.h"
#include "asplash/base/text.h"

namespace asplash {

void fail_system(const std::string& what, const std::string& path, int code) {
  std::string reason = std::strerror(code);
  if (code == ENOSPC || code == EDQUOT) reason += " (free some, or write elsewhere)";
  if (code == EFBIG) reason += " (see ulimit -f)";
  fail("cannot ", what, " ", path, ": ", reason);
}

namespace {

/// To open a named pipe would wait for its writer; regular files do not care.
constexpr int kReadWithoutWaiting = O_RDONLY | O_NONBLOCK;

class FileDescriptor {
 public:
  FileDescriptor(const std::string& path, int flags, const char* what) : path_(path) {
    do {
      fd_ = ::open(path.c_str(), flags | O_CLOEXEC);
    } while (fd_ < 0 && errno == EINTR);
    if (fd_ < 0) fail_system(what, path_, errno);
  }
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;

  int get() const { return fd_; }

  struct stat status() const {
    struct stat result {};
    if (::fstat(fd_, &result) != 0) fail_system("examine", path_, errno);
    return result;
  }

  /// Reads up to `bytes`; 0 at the end.
  size_t read(void* out, size_t bytes) const {
    ssize_t count;
    do {
      count = ::read(fd_, out, bytes);
    } while (count < 0 && errno == EINTR);
    if (count < 0) fail_system("read", path_, errno);
    return static_cast<size_t>(count);
  }

  void sync() const {
    // Some file systems do not sync folders and say EINVAL: there is nothing more to be had there.
    if (::fsync(fd_) != 0 && !(errno == EINVAL && S_ISDIR(status().st_mode))) {
      fail_system("write", path_, errno);
    }
  }

 private:
  std::string path_;
  int fd_ = -1;
};

std::string folder_of(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string hex(const XXH128_hash_t& hash) {
  XXH128_canonical_t bytes;
  XXH128_canonicalFromHash(&bytes, hash);
  std::string text;
  for (const unsigned char byte : bytes.digest) {
    constexpr const char* kDigits = "0123456789abcdef";
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

}  // namespace

std::string read_file(const std::string& path, size_t most_bytes) {
  const FileDescriptor file(path, O_RDONLY, "read");
  const struct stat status = file.status();
  if (S_ISDIR(status.st_mode)) fail_system("read", path, EISDIR);
  // A pipe has no size, and a file may grow: read to the end whatever the size says.
  std::string content(std::min(static_cast<size_t>(status.st_size), most_bytes) + 1, '\0');
  size_t filled = 0;
  while (const size_t count = file.read(&content[filled], content.size() - filled)) {
    filled += count;
    if (filled > most_bytes)
      fail("cannot read ", path, ": it is longer than ", human_bytes(static_cast<double>(most_bytes)));
    if (filled == content.size()) content.resize(2 * filled + (1 << 16));
  }
  content.resize(filled);
  return content;
}

void write_file_atomically(const std::string& path, const std::string& content) {
  OutputFile file(str(path, ".tmp-", ::getpid()), path);
  file.write(content.data(), content.size());
  file.sync_and_close();
  file.rename_to(path);
  fsync_path(folder_of(path));
}

void fsync_path(const std::string& path) { FileDescriptor(path, O_RDONLY, "sync").sync(); }

MappedFile::MappedFile(const std::string& path) {
  const FileDescriptor file(path, kReadWithoutWaiting, "read");
  const struct stat status = file.status();
  if (!S_ISREG(status.st_mode)) fail("cannot map ", path, ": not a regular file");
  size_ = static_cast<size_t>(status.st_size);
  if (size_ == 0) return;
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.get(), 0);
  if (address == MAP_FAILED) fail_system("map", path, errno);
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  MappedFile taken(std::move(other));
  std::swap(data_, taken.data_);
  std::swap(size_, taken.size_);
  return *this;
}

uint64_t hash64(const void* data, size_t bytes) { return XXH3_64bits(data, bytes); }

std::string hash_bytes(const void* data, size_t bytes) { return hex(XXH3_128bits(data, bytes)); }

std::string hash_file(const std::string& path) {
  const FileDescriptor file(path, kReadWithoutWaiting, "read");
  const mode_t mode = file.status().st_mode;
  if (S_ISDIR(mode)) fail_system("read", path, EISDIR);
  if (!S_ISREG(mode)) fail("cannot read ", path, ": not a regular file");  // it might have no end
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  std::vector<char> buffer(1 << 20);
  while (const size_t count = file.read(buffer.data(), buffer.size())) {
    XXH3_128bits_update(&state, buffer.data(), count);
  }
  return hex(XXH3_128bits_digest(&state));
}

}  // namespace asplash
