#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "asplash/base/output_file.h"
#include "asplash/data/shard_format.h"
#include "asplash/data/shard_writer.h"

namespace asplash::data {

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
