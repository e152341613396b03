#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

/// Files: every failure throws asplash::Error that names the path and the system's reason.
namespace asplash {

/// Throws asplash::Error "cannot WHAT PATH: REASON", the reason being that of the errno `code`.
[[noreturn]] void fail_system(const std::string& what, const std::string& path, int code);

constexpr size_t kMostFileBytes = size_t{4} << 30;

/// A whole file, or pipe; refused where it is longer than `most_bytes`, as a device without end is.
std::string read_file(const std::string& path, size_t most_bytes = kMostFileBytes);

/// Writes beside the target (PATH.tmp-PID), fsyncs, renames over it and fsyncs the folder: a reader sees the
/// old content or the new one, never a part.
void write_file_atomically(const std::string& path, const std::string& content);

/// Flushes a file's, or a folder's, content to the disk.
void fsync_path(const std::string& path);

/// A read-only memory map of a whole file. Movable; unmapped by the destructor.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// XXH3-64 (xxHash) of the bytes; detects damage, is not cryptographic.
uint64_t hash64(const void* data, size_t bytes);
/// XXH3-128 of a regular file's content as 32 hexadecimal digits: the identity of tokenizers and checkpoint
/// files.
std::string hash_file(const std::string& path);
/// XXH3-128 of bytes as 32 hexadecimal digits.
std::string hash_bytes(const void* data, size_t bytes);

}  // namespace asplash
