#include "asplash/text/gzip_file.h"

#include <zlib.h>

#include <algorithm>
#include <new>
#include <utility>
#include <vector>

#include "asplash/base/error.h"

namespace asplash::text {
namespace {

constexpr size_t kChunkBytes = 1 << 18;
constexpr int kGzipWithLargestWindow = 16 + MAX_WBITS;

class GzipFile : public ByteSource {
 public:
  GzipFile(std::unique_ptr<ByteSource> compressed, std::string path)
      : compressed_(std::move(compressed)), path_(std::move(path)), input_(kChunkBytes) {
    if (!more_input() || next_byte() != 0x1f)
      fail(path_, ": is not gzip data although its name ends in .gz (or it is truncated to nothing)");
    if (::inflateInit2(&stream_, kGzipWithLargestWindow) != Z_OK) throw std::bad_alloc();
  }
  ~GzipFile() override { ::inflateEnd(&stream_); }
  GzipFile(const GzipFile&) = delete;
  GzipFile& operator=(const GzipFile&) = delete;

  size_t read(char* out, size_t bytes) override {
    const size_t wanted = std::min<size_t>(bytes, 1 << 30);
    stream_.next_out = reinterpret_cast<Bytef*>(out);
    stream_.avail_out = static_cast<uInt>(wanted);
    while (stream_.avail_out == wanted) {
      if (between_members_ && !start_member()) break;
      if (!more_input()) fail("cannot decompress ", path_, ": truncated gzip data");
      const int status = ::inflate(&stream_, Z_NO_FLUSH);
      between_members_ = status == Z_STREAM_END;
      // Z_BUF_ERROR: this piece of the input makes no output yet.
      if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR)
        fail("cannot decompress ", path_, ": damaged gzip data (",
             stream_.msg != nullptr ? stream_.msg : "needs a dictionary", ")");
    }
    return wanted - stream_.avail_out;
  }
  int64_t consumed() const override { return compressed_->consumed(); }

 private:
  /// False: the file ended with the last member.
  bool start_member() {
    while (more_input() && next_byte() == 0) {
      ++stream_.next_in;
      --stream_.avail_in;
    }
    if (stream_.avail_in == 0) return false;
    ::inflateReset(&stream_);
    between_members_ = false;
    return true;
  }

  Bytef next_byte() const { return *stream_.next_in; }

  bool more_input() {
    if (stream_.avail_in > 0) return true;
    stream_.next_in = reinterpret_cast<Bytef*>(input_.data());
    stream_.avail_in = static_cast<uInt>(compressed_->read(input_.data(), input_.size()));
    return stream_.avail_in > 0;
  }

  std::unique_ptr<ByteSource> compressed_;
  std::string path_;
  std::vector<char> input_;
  z_stream stream_{};
  bool between_members_ = false;
};

}  // namespace

std::unique_ptr<ByteSource> open_gzip(std::unique_ptr<ByteSource> compressed, const std::string& path) {
  return std::make_unique<GzipFile>(std::move(compressed), path);
}

}  // namespace asplash::text
