#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "asplash/data/shard_format.h"
#include "asplash/data/shard_writer.h"

namespace asplash::data {

/// A file being written; the destructor closes and, unless keep() was called, removes it. Errors name the
/// path.
class OutputFile {
 public:
  explicit OutputFile(const std::string& path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  const std::string& path() const { return path_; }
  void write(const void* data, size_t bytes);
  void write_at(const void* data, size_t bytes, uint64_t offset);
  /// Flushes to the disk and closes.
  void sync_and_close();
  /// Renames to `target`; from then on the destructor leaves it alone.
  void rename_to(const std::string& target);

 private:
  std::string path_;
  int fd_ = -1;
};

/// One shard being written, as PATH.tmp until publish(); see shard_format.h.
class ShardFile {
 public:
  ShardFile(std::string folder, std::string name, const TokenizerInfo& tokenizer);

  void begin_document();
  void append(const int32_t* tokens, int64_t count);
  void end_document(int64_t text_bytes);
  int64_t tokens() const { return static_cast<int64_t>(header_.tokens); }

  /// Writes index, table and header and flushes them to the disk.
  void finish();
  /// Renames to the final name.
  void publish();
  ShardSummary summary() const;

 private:
  void put(const void* data, size_t bytes);
  void flush_block();
  template <class Token>
  void append_as(const int32_t* tokens, int64_t count);

  std::string folder_;
  std::string name_;
  OutputFile file_;
  ShardHeader header_{};
  std::vector<DocumentEntry> index_;
  std::vector<uint64_t> table_;
  std::vector<char> block_;  // not yet written; at most kBlockBytes
};

}  // namespace asplash::data
