#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace asplash::text {

/// A file's bytes, decompressed. Errors name the file.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  /// Up to `bytes` bytes; 0 at the end. Throws asplash::Error for damaged or truncated compressed data.
  virtual size_t read(char* out, size_t bytes) = 0;
  /// Bytes of the file taken so far, as they lie on the disk.
  virtual int64_t consumed() const = 0;
};

/// By the ending: .gz is decompressed through zlib, .xz, .zst and .bz2 through libarchive, everything else is
/// read as it is. The checksums within compressed files are verified.
std::unique_ptr<ByteSource> open_bytes(const std::string& path);

/// The ending if it is one of a compression, else "".
std::string compression_of(const std::string& path);

/// Lines of a source.
class LineReader {
 public:
  /// Of a line of more than most_bytes comes a part that is longer than that: the caller has to refuse it.
  LineReader(ByteSource& source, size_t most_bytes);
  /// The next line without its line break ("\n" or "\r\n"); false at the end.
  bool next(std::string& line);

 private:
  ByteSource& source_;
  size_t most_bytes_;
  std::string buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
};

/// All bytes that are left; of more than most_bytes a part that is longer than that.
std::string read_all(ByteSource& source, size_t most_bytes);

}  // namespace asplash::text
