#include "asplash/data/shard_file.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <utility>

#include "asplash/base/error.h"
#include "asplash/base/files.h"

namespace asplash::data {

std::string checksum_text(uint64_t checksum) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(checksum));
  return text;
}

ShardFile::ShardFile(std::string folder, std::string name, const TokenizerInfo& tokenizer)
    : folder_(std::move(folder)), name_(std::move(name)), file_(folder_ + "/" + name_ + ".tmp") {
  std::memcpy(header_.magic, kShardMagic, sizeof kShardMagic);
  header_.version = kShardVersion;
  header_.token_bytes = tokenizer.vocab_size <= kMaxVocabOfUint16 ? 2 : 4;
  header_.vocab_size = static_cast<uint64_t>(tokenizer.vocab_size);
  if (!tokenizer.hash.empty() && tokenizer.hash.size() != sizeof header_.tokenizer_hash)
    fail("tokenizer hash '", tokenizer.hash, "' must have ", sizeof header_.tokenizer_hash, " digits");
  std::memcpy(header_.tokenizer_hash, tokenizer.hash.data(), tokenizer.hash.size());
  block_.reserve(kBlockBytes);
  // The header's place; its content is known at the end.
  file_.write(std::vector<char>(kHeaderBytes).data(), kHeaderBytes);
}

void ShardFile::begin_document() { index_.push_back({header_.tokens, 0}); }

void ShardFile::end_document(int64_t text_bytes) {
  index_.back().text_bytes = static_cast<uint64_t>(text_bytes);
  header_.text_bytes += static_cast<uint64_t>(text_bytes);
}

void ShardFile::append(const int32_t* tokens, int64_t count) {
  const auto vocab = static_cast<uint32_t>(header_.vocab_size);
  for (int64_t i = 0; i < count; ++i) {
    if (static_cast<uint32_t>(tokens[i]) >= vocab)
      fail("token id ", tokens[i], " for ", file_.path(), " is not below the vocabulary's size ", vocab);
  }
  if (header_.token_bytes == 2)
    append_as<uint16_t>(tokens, count);
  else
    append_as<uint32_t>(tokens, count);
  header_.tokens += static_cast<uint64_t>(count);
}

template <class Token>
void ShardFile::append_as(const int32_t* tokens, int64_t count) {
  std::vector<Token> narrow(static_cast<size_t>(std::min<int64_t>(count, 1 << 16)));
  for (int64_t begin = 0; begin < count; begin += static_cast<int64_t>(narrow.size())) {
    const int64_t end = std::min(count, begin + static_cast<int64_t>(narrow.size()));
    std::transform(tokens + begin, tokens + end, narrow.begin(),
                   [](int32_t token) { return static_cast<Token>(token); });
    put(narrow.data(), static_cast<size_t>(end - begin) * sizeof(Token));
  }
}

void ShardFile::put(const void* data, size_t bytes) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const size_t part = std::min(bytes, static_cast<size_t>(kBlockBytes) - block_.size());
    block_.insert(block_.end(), next, next + part);
    next += part;
    bytes -= part;
    if (block_.size() == kBlockBytes) flush_block();
  }
}

void ShardFile::flush_block() {
  if (block_.empty()) return;
  table_.push_back(hash64(block_.data(), block_.size()));
  file_.write(block_.data(), block_.size());
  block_.clear();
}

void ShardFile::finish() {
  block_.resize((block_.size() + kTokenPadding - 1) / kTokenPadding * kTokenPadding);
  flush_block();
  header_.documents = index_.size();
  put(index_.data(), index_.size() * sizeof(DocumentEntry));
  flush_block();
  const size_t table_bytes = table_.size() * sizeof(uint64_t);
  file_.write(table_.data(), table_bytes);

  set_shard_offsets(header_);
  std::vector<char> checked(kHeaderBytes + table_bytes);
  std::memcpy(checked.data(), &header_, sizeof header_);
  if (table_bytes > 0) std::memcpy(checked.data() + kHeaderBytes, table_.data(), table_bytes);
  header_.checksum = hash64(checked.data(), checked.size());
  file_.write_at(&header_, sizeof header_, 0);
  file_.sync_and_close();
  // Many finished shards wait to be published together.
  std::vector<DocumentEntry>().swap(index_);
  std::vector<char>().swap(block_);
}

void ShardFile::publish() { file_.rename_to(folder_ + "/" + name_); }

ShardSummary ShardFile::summary() const {
  return {name_, static_cast<int64_t>(header_.file_bytes), static_cast<int64_t>(header_.tokens),
          static_cast<int64_t>(header_.documents), checksum_text(header_.checksum)};
}

}  // namespace asplash::data
