#include "asplash/text/byte_source.h"

#include <fcntl.h>
#include <unistd.h>

#ifdef ASPLASH_HAVE_LIBARCHIVE
#include <archive.h>
#include <archive_entry.h>
#endif

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <new>

#include "asplash/base/error.h"
#ifdef ASPLASH_HAVE_ZLIB
#include "asplash/text/gzip_file.h"
#endif

namespace asplash::text {
namespace {

constexpr size_t kChunkBytes = 1 << 20;

struct Compression {
  const char* ending;
  const char* name;
#ifdef ASPLASH_HAVE_LIBARCHIVE
  int filter;
  int (*support)(archive*);
#endif
};

#ifdef ASPLASH_HAVE_LIBARCHIVE
constexpr std::array<Compression, 4> kCompressions{{
    {".xz", "xz", ARCHIVE_FILTER_XZ, archive_read_support_filter_xz},
    {".gz", "gzip", ARCHIVE_FILTER_GZIP, archive_read_support_filter_gzip},
    {".zst", "zstd", ARCHIVE_FILTER_ZSTD, archive_read_support_filter_zstd},
    {".bz2", "bzip2", ARCHIVE_FILTER_BZIP2, archive_read_support_filter_bzip2},
}};
#else
constexpr std::array<Compression, 4> kCompressions{
    {{".xz", "xz"}, {".gz", "gzip"}, {".zst", "zstd"}, {".bz2", "bzip2"}}};
#endif

const Compression* find_compression(const std::string& path) {
  for (const Compression& compression : kCompressions) {
    const size_t length = std::strlen(compression.ending);
    if (path.size() > length && path.compare(path.size() - length, length, compression.ending) == 0)
      return &compression;
  }
  return nullptr;
}

class PlainFile : public ByteSource {
 public:
  explicit PlainFile(const std::string& path) : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) fail("cannot read ", path_, ": ", std::strerror(errno));
    ::posix_fadvise(fd_, 0, 0, POSIX_FADV_SEQUENTIAL);
  }
  ~PlainFile() override { ::close(fd_); }
  PlainFile(const PlainFile&) = delete;
  PlainFile& operator=(const PlainFile&) = delete;

  size_t read(char* out, size_t bytes) override {
    ssize_t count;
    do {
      count = ::read(fd_, out, bytes);
    } while (count < 0 && errno == EINTR);
    if (count < 0) fail("cannot read ", path_, ": ", std::strerror(errno));
    consumed_ += count;
    return static_cast<size_t>(count);
  }
  int64_t consumed() const override { return consumed_; }

 private:
  std::string path_;
  int fd_;
  int64_t consumed_ = 0;
};

#ifdef ASPLASH_HAVE_LIBARCHIVE
class CompressedFile : public ByteSource {
 public:
  CompressedFile(const std::string& path, const Compression& compression)
      : path_(path), archive_(archive_read_new(), archive_read_free) {
    if (!archive_) throw std::bad_alloc();
    // Some filters are there only as an external program, which libarchive reports as a warning.
    if (compression.support(archive_.get()) < ARCHIVE_WARN) damaged("cannot decompress");
    archive_read_support_format_raw(archive_.get());
    archive_read_support_format_empty(archive_.get());
    if (archive_read_open_filename(archive_.get(), path.c_str(), kChunkBytes) != ARCHIVE_OK)
      damaged("cannot read");
    if (archive_filter_code(archive_.get(), 0) != compression.filter)
      fail(path_, ": is not ", compression.name, " data although its name ends in ", compression.ending,
           " (or it is truncated to nothing)");
    archive_entry* entry = nullptr;
    const int status = archive_read_next_header(archive_.get(), &entry);
    ended_ = status == ARCHIVE_EOF;
    if (!ended_ && status != ARCHIVE_OK) damaged("cannot decompress");
  }

  size_t read(char* out, size_t bytes) override {
    if (ended_) return 0;
    const la_ssize_t count = archive_read_data(archive_.get(), out, bytes);
    if (count < 0) damaged("cannot decompress");
    ended_ = count == 0;
    return static_cast<size_t>(count);
  }
  int64_t consumed() const override { return archive_filter_bytes(archive_.get(), -1); }

 private:
  [[noreturn]] void damaged(const char* what) const {
    const char* reason = archive_error_string(archive_.get());
    std::string said = reason != nullptr ? reason : "damaged or truncated data";
    // What libarchive says of xz data that end too early.
    if (said.find("No progress is possible") != std::string::npos) said = "truncated data";
    fail(what, " ", path_, ": ", said);
  }

  std::string path_;
  std::unique_ptr<archive, decltype(&archive_read_free)> archive_;
  bool ended_ = false;
};
#endif

}  // namespace

std::unique_ptr<ByteSource> open_bytes(const std::string& path) {
  const Compression* compression = find_compression(path);
  if (compression == nullptr) return std::make_unique<PlainFile>(path);
  const bool gzip = std::strcmp(compression->name, "gzip") == 0;
#ifdef ASPLASH_HAVE_ZLIB
  if (gzip) return open_gzip(std::make_unique<PlainFile>(path), path);
#endif
#ifdef ASPLASH_HAVE_LIBARCHIVE
  if (!gzip) return std::make_unique<CompressedFile>(path, *compression);
#endif
  fail("cannot read ", path, ": this program was built without ", gzip ? "zlib" : "libarchive",
       "; decompress the file, or install ", gzip ? "zlib1g-dev" : "libarchive-dev", " and build again");
}

std::string compression_of(const std::string& path) {
  const Compression* compression = find_compression(path);
  return compression == nullptr ? "" : compression->ending;
}

LineReader::LineReader(ByteSource& source, size_t most_bytes) : source_(source), most_bytes_(most_bytes) {
  buffer_.resize(kChunkBytes);
}

bool LineReader::next(std::string& line) {
  line.clear();
  bool any = false;
  for (;;) {
    if (begin_ == end_) {
      begin_ = 0;
      end_ = source_.read(buffer_.data(), buffer_.size());
      if (end_ == 0) break;
    }
    any = true;
    const char* from = buffer_.data() + begin_;
    const void* found = std::memchr(from, '\n', end_ - begin_);
    const size_t count = found ? static_cast<size_t>(static_cast<const char*>(found) - from) : end_ - begin_;
    line.append(from, count);
    begin_ += count;
    if (found == nullptr && line.size() <= most_bytes_) continue;
    if (found == nullptr) return true;
    ++begin_;
    break;
  }
  if (!line.empty() && line.back() == '\r') line.pop_back();
  return any;
}

std::string read_all(ByteSource& source, size_t most_bytes) {
  std::string content;
  size_t filled = 0;
  do {
    content.resize(std::max(filled + kChunkBytes, filled + filled / 2));
    const size_t count = source.read(&content[filled], content.size() - filled);
    if (count == 0) break;
    filled += count;
  } while (filled <= most_bytes);
  content.resize(filled);
  return content;
}

}  // namespace asplash::text
