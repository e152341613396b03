#include "asplash/data/mapped_shard.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "asplash/base/error.h"
#include "asplash/base/text.h"

namespace asplash::data {
namespace {

/// Sums of so many bytes over any number of shards fit into 64 bits.
constexpr uint64_t kMostTextBytes = uint64_t{1} << 50;

std::string hash_in(const ShardHeader& header) {
  const char* begin = header.tokenizer_hash;
  return {begin, std::find(begin, begin + sizeof header.tokenizer_hash, '\0')};
}

}  // namespace

MappedShard::MappedShard(const std::string& path, const ShardSummary& expected,
                         const std::string& tokenizer_hash, int64_t vocab_size)
    : path_(path), file_(path) {
  check_header(expected, tokenizer_hash, vocab_size);
  token_region_ = {kHeaderBytes, header_.index_offset - kHeaderBytes, 0};
  index_region_ = {header_.index_offset, header_.table_offset - header_.index_offset, token_region_.blocks()};
  table_.resize(token_region_.blocks() + index_region_.blocks());
  if (!table_.empty()) std::memcpy(table_.data(), at(header_.table_offset), table_.size() * sizeof(uint64_t));
  check_table();
  if (checksum_text(header_.checksum) != expected.checksum)
    fail(path_, ": checksum is ", checksum_text(header_.checksum), ", the manifest says ", expected.checksum,
         ": this is not the shard that was packed; pack again");
  const size_t words = table_.size() / 64 + 1;
  checked_ = std::make_unique<std::atomic<uint64_t>[]>(words);
  for (size_t i = 0; i < words; ++i) checked_[i] = 0;
  // Windows are read in random order: reading ahead of them is the loader's part.
  ::madvise(const_cast<std::byte*>(file_.data()), file_.size(), MADV_RANDOM);
}

void MappedShard::damaged(const std::string& what) const {
  fail(path_, ": ", what, ": the shard is damaged; restore it or pack again");
}

void MappedShard::check_header(const ShardSummary& expected, const std::string& tokenizer_hash,
                               int64_t vocab_size) {
  if (file_.size() != static_cast<uint64_t>(expected.bytes))
    damaged(str("has ", file_.size(), " bytes, the manifest says ", expected.bytes));
  if (file_.size() < kHeaderBytes) damaged(str("has ", file_.size(), " bytes, less than a header"));
  std::memcpy(&header_, file_.data(), sizeof header_);
  if (std::memcmp(header_.magic, kShardMagic, sizeof kShardMagic) != 0)
    damaged("does not begin with a shard's magic bytes (damaged header, or another kind of file)");
  if (header_.version != kShardVersion)
    damaged(str("header says format version ", header_.version, ", this program reads ", kShardVersion));
  if (header_.token_bytes != 2 && header_.token_bytes != 4)
    damaged(str("header says ", header_.token_bytes, " bytes a token, must be 2 or 4"));
  // No token takes less than two bytes and no document less than an entry: this also rules out overflow.
  if (header_.tokens > file_.size() || header_.documents > file_.size())
    damaged(str("header says ", header_.tokens, " tokens and ", header_.documents, " documents in ",
                file_.size(), " bytes"));
  if (header_.text_bytes > kMostTextBytes)
    damaged(str("header says ", header_.text_bytes, " text bytes, more than any text has"));
  ShardHeader layout = header_;
  set_shard_offsets(layout);
  if (layout.index_offset != header_.index_offset || layout.table_offset != header_.table_offset ||
      layout.file_bytes != header_.file_bytes || layout.file_bytes != file_.size())
    damaged(str("header's counts and offsets disagree with each other or with the size of ", file_.size(),
                " bytes"));
  if (tokens() != expected.tokens || documents() != expected.documents)
    damaged(str("header says ", tokens(), " tokens in ", documents(), " documents, the manifest says ",
                expected.tokens, " in ", expected.documents));
  if (hash_in(header_) != tokenizer_hash)
    fail(path_, ": packed with tokenizer ", shown(hash_in(header_)), ", the manifest names ", tokenizer_hash,
         ": shards of different tokenizers cannot be mixed; pack again");
  if (header_.vocab_size != static_cast<uint64_t>(vocab_size))
    fail(path_, ": packed with a vocabulary of ", header_.vocab_size, ", the manifest says ", vocab_size,
         ": pack again");
}

void MappedShard::check_table() const {
  const size_t table_bytes = table_.size() * sizeof(uint64_t);
  std::vector<std::byte> checked(kHeaderBytes + table_bytes);
  std::memcpy(checked.data(), file_.data(), kHeaderBytes);
  if (table_bytes > 0) std::memcpy(checked.data() + kHeaderBytes, table_.data(), table_bytes);
  ShardHeader header = header_;
  header.checksum = 0;
  std::memcpy(checked.data(), &header, sizeof header);
  if (hash64(checked.data(), checked.size()) != header_.checksum)
    damaged("the checksum of its header and block table does not match");
}

void MappedShard::read(int64_t begin, int64_t count, int32_t* out) const {
  const uint64_t width = header_.token_bytes;
  const uint64_t first = static_cast<uint64_t>(begin) * width;
  require(token_region_, first, static_cast<uint64_t>(count) * width);
  const std::byte* source = at(token_region_.offset + first);
  if (width == 2) {
    const auto* narrow = reinterpret_cast<const uint16_t*>(source);
    std::copy(narrow, narrow + count, out);
  } else {
    std::memcpy(out, source, static_cast<size_t>(count) * sizeof(int32_t));
  }
}

void MappedShard::will_need(int64_t begin, int64_t count) const {
  const uint64_t width = header_.token_bytes;
  const uint64_t last = static_cast<uint64_t>(begin + count) * width;
  uint64_t block = static_cast<uint64_t>(begin) * width / kBlockBytes;
  for (; block * kBlockBytes < last; ++block) {
    const bool known = (checked_[block / 64].load(std::memory_order_relaxed) >> block % 64 & 1) != 0;
    // A block that is not checked yet will be read as a whole, of others only the window.
    const uint64_t from =
        known ? std::max(block * kBlockBytes, static_cast<uint64_t>(begin) * width) : block * kBlockBytes;
    const uint64_t to = std::min((block + 1) * kBlockBytes, known ? last : token_region_.bytes);
    const uint64_t page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    const uint64_t start = (token_region_.offset + from) / page * page;
    ::madvise(const_cast<std::byte*>(at(start)), token_region_.offset + to - start, MADV_WILLNEED);
  }
}

DocumentEntry MappedShard::document(int64_t i) const {
  const uint64_t offset = static_cast<uint64_t>(i) * sizeof(DocumentEntry);
  require(index_region_, offset, sizeof(DocumentEntry));
  DocumentEntry entry;
  std::memcpy(&entry, at(index_region_.offset + offset), sizeof entry);
  return entry;
}

int64_t MappedShard::document_of(int64_t token) const {
  int64_t low = 0;
  int64_t high = documents();
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (document(middle).first_token <= static_cast<uint64_t>(token) ? low : high) = middle;
  }
  return low;
}

void MappedShard::verify() const {
  for (uint64_t block = 0; block < token_region_.blocks(); ++block) check_block(token_region_, block);
  for (uint64_t block = 0; block < index_region_.blocks(); ++block) check_block(index_region_, block);
}

void MappedShard::require(const Region& region, uint64_t begin, uint64_t bytes) const {
  if (bytes == 0) return;
  for (uint64_t block = begin / kBlockBytes; block <= (begin + bytes - 1) / kBlockBytes; ++block) {
    const uint64_t bit = region.first_block + block;
    const uint64_t mask = uint64_t{1} << (bit % 64);
    if ((checked_[bit / 64].load(std::memory_order_acquire) & mask) != 0) continue;
    check_block(region, block);
    checked_[bit / 64].fetch_or(mask, std::memory_order_release);
  }
}

void MappedShard::check_block(const Region& region, uint64_t block) const {
  const uint64_t begin = block * kBlockBytes;
  const uint64_t bytes = std::min<uint64_t>(kBlockBytes, region.bytes - begin);
  const char* name = holds_tokens(region) ? "token" : "document index";
  if (hash64(at(region.offset + begin), bytes) != table_[region.first_block + block])
    damaged(str("the checksum of ", name, " block ", block, " (bytes ", region.offset + begin, " to ",
                region.offset + begin + bytes, ") does not match"));
  if (!holds_tokens(region))
    check_documents(begin / sizeof(DocumentEntry), bytes / sizeof(DocumentEntry));
  else if (header_.token_bytes == 2)
    check_ids<uint16_t>(begin, bytes);
  else
    check_ids<uint32_t>(begin, bytes);
}

void MappedShard::check_documents(uint64_t first, uint64_t count) const {
  const auto* entries = reinterpret_cast<const DocumentEntry*>(at(index_region_.offset));
  // The first document begins with the shard; the block before was checked, or will be when it is needed.
  uint64_t before = first == 0 ? 0 : entries[first - 1].first_token;
  uint64_t text_bytes_left = header_.text_bytes;
  for (uint64_t i = first; i < first + count; ++i) {
    const DocumentEntry& entry = entries[i];
    if (entry.first_token < before || entry.first_token > header_.tokens ||
        (i == 0 && entry.first_token != 0))
      damaged(str("document ", i, " begins at token ", entry.first_token, ", the one before at ", before,
                  ", and there are ", header_.tokens, " tokens"));
    if (entry.text_bytes > text_bytes_left)
      damaged(str("document ", i, " has ", entry.text_bytes,
                  " text bytes, more than are left of the header's ", header_.text_bytes));
    text_bytes_left -= entry.text_bytes;
    before = entry.first_token;
  }
}

template <class Token>
void MappedShard::check_ids(uint64_t first, uint64_t bytes) const {
  const auto* tokens = reinterpret_cast<const Token*>(at(token_region_.offset + first));
  const auto* end = tokens + bytes / sizeof(Token);
  // Zeros fill up the last block, and 0 is below every vocabulary's size.
  const auto largest = std::max_element(tokens, end);
  if (*largest >= header_.vocab_size)
    damaged(str("token ", first / sizeof(Token) + static_cast<uint64_t>(largest - tokens), " has id ",
                *largest, ", not below the vocabulary's size ", header_.vocab_size));
}

}  // namespace asplash::data
