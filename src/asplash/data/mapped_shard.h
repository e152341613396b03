#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "asplash/base/files.h"
#include "asplash/data/shard_format.h"
#include "asplash/data/shard_writer.h"

namespace asplash::data {

/// One shard, memory-mapped and read-only; see shard_format.h. Thread-safe. Errors name the file.
class MappedShard {
 public:
  /// Checks size, header and table, and that the shard is the one `expected` (from the manifest) speaks of
  /// and made with `tokenizer_hash` and `vocab_size`.
  MappedShard(const std::string& path, const ShardSummary& expected, const std::string& tokenizer_hash,
              int64_t vocab_size);

  int64_t tokens() const { return static_cast<int64_t>(header_.tokens); }
  int64_t documents() const { return static_cast<int64_t>(header_.documents); }
  int64_t text_bytes() const { return static_cast<int64_t>(header_.text_bytes); }

  /// Copies tokens [begin, begin + count); checks the blocks that hold them if this was not done before.
  void read(int64_t begin, int64_t count, int32_t* out) const;
  /// Asks the system to bring the blocks of these tokens into memory; returns at once.
  void will_need(int64_t begin, int64_t count) const;

  /// Document i, 0 <= i < documents().
  DocumentEntry document(int64_t i) const;
  /// The last document that begins at `token` or before it.
  int64_t document_of(int64_t token) const;

  /// Checks every block, whether it was checked before or not.
  void verify() const;

 private:
  /// A part of the file that the table covers block by block.
  struct Region {
    uint64_t offset = 0;
    uint64_t bytes = 0;
    uint64_t first_block = 0;  ///< its first entry in the table
    uint64_t blocks() const { return (bytes + kBlockBytes - 1) / kBlockBytes; }
  };

  [[noreturn]] void damaged(const std::string& what) const;
  void check_header(const ShardSummary& expected, const std::string& tokenizer_hash, int64_t vocab_size);
  void check_table() const;
  void require(const Region& region, uint64_t begin, uint64_t bytes) const;
  void check_block(const Region& region, uint64_t block) const;
  /// That entries [first, first + count) of the index lie one after the other within the tokens.
  void check_documents(uint64_t first, uint64_t count) const;
  template <class Token>
  void check_ids(uint64_t first, uint64_t bytes) const;
  bool holds_tokens(const Region& region) const { return &region == &token_region_; }
  const std::byte* at(uint64_t offset) const { return file_.data() + offset; }

  std::string path_;
  MappedFile file_;
  ShardHeader header_{};
  Region token_region_;
  Region index_region_;
  std::vector<uint64_t> table_;
  std::unique_ptr<std::atomic<uint64_t>[]> checked_;  // one bit a block
};

}  // namespace asplash::data
