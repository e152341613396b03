#pragma once

#include <cstdint>
#include <string>
#include <type_traits>

/// A shard on disk, little-endian:
///
///     [0, 4096)                header: ShardHeader, then zeros
///     [4096, index_offset)     tokens: uint16 (vocabulary up to 65536) or uint32, then zeros up to a
///                              multiple of 16 bytes
///     [index_offset, table)    index: one DocumentEntry for each document
///     [table_offset, end)      table: XXH3-64 of each block of 1 MiB of the tokens, then of the index
///
/// (the last block of either part may be shorter). The header's checksum covers the header and the table, the
/// table covers the rest, and the manifest repeats the checksum: it names the whole shard. Opening reads the
/// header and the table, one part in 131,072; blocks are checked when they are first read.
namespace asplash::data {

constexpr char kShardMagic[8] = {'A', 'S', 'P', 'L', 'T', 'O', 'K', '\n'};
constexpr uint32_t kShardVersion = 1;
constexpr uint64_t kHeaderBytes = 4096;
constexpr uint64_t kBlockBytes = 1 << 20;
constexpr uint64_t kTokenPadding = 16;
/// The largest vocabulary whose ids fit into uint16.
constexpr int64_t kMaxVocabOfUint16 = 65536;

struct ShardHeader {
  char magic[8];
  uint32_t version;
  uint32_t token_bytes;  ///< 2 or 4
  uint64_t tokens;
  uint64_t documents;
  uint64_t text_bytes;  ///< UTF-8 bytes of the text behind the tokens
  uint64_t vocab_size;
  char tokenizer_hash[32];  ///< hash_file() of the tokenizer; zeros: none
  uint64_t index_offset;
  uint64_t table_offset;
  uint64_t file_bytes;
  uint64_t checksum;  ///< XXH3-64 of the header, with this field 0, followed by the table
};
static_assert(sizeof(ShardHeader) == 112 && std::is_trivially_copyable_v<ShardHeader>);

/// Documents lie one after the other: one ends where the next begins.
struct DocumentEntry {
  uint64_t first_token;  ///< within the shard
  uint64_t text_bytes;
};
static_assert(sizeof(DocumentEntry) == 16);

/// Where the parts of a shard of these counts lie; fills the offsets and file_bytes of the header.
inline void set_shard_offsets(ShardHeader& header) {
  const auto up = [](uint64_t value, uint64_t step) { return (value + step - 1) / step * step; };
  const auto blocks = [&](uint64_t bytes) { return up(bytes, kBlockBytes) / kBlockBytes; };
  const uint64_t token_bytes = up(header.tokens * header.token_bytes, kTokenPadding);
  const uint64_t index_bytes = header.documents * sizeof(DocumentEntry);
  header.index_offset = kHeaderBytes + token_bytes;
  header.table_offset = header.index_offset + index_bytes;
  header.file_bytes = header.table_offset + sizeof(uint64_t) * (blocks(token_bytes) + blocks(index_bytes));
}

/// A checksum as manifests write it: 16 hexadecimal digits.
std::string checksum_text(uint64_t checksum);

}  // namespace asplash::data
