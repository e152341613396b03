#include "asplash/data/shard_writer.h"

#include <cstdio>
#include <filesystem>
#include <utility>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/data/manifest.h"
#include "asplash/data/new_folder.h"
#include "asplash/data/shard_file.h"

namespace asplash::data {
namespace fs = std::filesystem;
namespace {

constexpr const char* kShardEnding = ".tokens";

std::string shard_name(size_t number) {
  char name[32];
  std::snprintf(name, sizeof name, "shard-%05zu", number);
  return std::string(name) + kShardEnding;
}

/// Files of the folder named shard-* with this ending.
std::vector<fs::path> shards_with_ending(const fs::path& folder, const std::string& ending) {
  std::vector<fs::path> result;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename().string().rfind("shard-", 0) == 0 && entry.path().extension() == ending)
      result.push_back(entry.path());
  }
  return result;
}

}  // namespace

struct SplitWriter::Impl {
  explicit Impl(const std::string& path) : folder(path), made(path) {}

  std::string folder;
  NewFolder made;  // goes after the shards
  int64_t shard_tokens = 0;
  TokenizerInfo tokenizer;
  Manifest manifest;
  std::vector<std::unique_ptr<ShardFile>> shards;  // all but the last one are finished
  bool finished = false;

  ShardFile& shard() { return *shards.back(); }

  void start_shard() {
    if (!shards.empty()) shard().finish();
    shards.push_back(std::make_unique<ShardFile>(folder, shard_name(shards.size()), tokenizer));
  }
};

SplitWriter::SplitWriter(const std::string& output, const std::string& split, const TokenizerInfo& tokenizer,
                         int64_t shard_tokens) {
  if (tokenizer.vocab_size < 1) fail("vocabulary size must be at least 1, got ", tokenizer.vocab_size);
  if (shard_tokens < 1) fail("tokens of a shard must be at least 1, got ", shard_tokens);
  impl_ = std::make_unique<Impl>((fs::path(output) / split).string());
  impl_->shard_tokens = shard_tokens;
  impl_->tokenizer = tokenizer;
  Manifest& manifest = impl_->manifest;
  manifest.split = split;
  manifest.tokenizer_hash = tokenizer.hash;
  manifest.vocab_size = tokenizer.vocab_size;
  manifest.bos_id = tokenizer.bos_id;
  manifest.eos_id = tokenizer.eos_id;
  for (const auto& stale : shards_with_ending(impl_->folder, ".tmp")) fs::remove(stale);
}

SplitWriter::~SplitWriter() = default;
SplitWriter::SplitWriter(SplitWriter&&) noexcept = default;
SplitWriter& SplitWriter::operator=(SplitWriter&&) noexcept = default;

void SplitWriter::begin_document() {
  if (impl_->shards.empty() || impl_->shard().tokens() >= impl_->shard_tokens) impl_->start_shard();
  impl_->shard().begin_document();
  ++impl_->manifest.documents;
}

void SplitWriter::append(const int32_t* tokens, int64_t count) {
  impl_->shard().append(tokens, count);
  impl_->manifest.tokens += count;
}

void SplitWriter::end_document(int64_t text_bytes) {
  impl_->shard().end_document(text_bytes);
  impl_->manifest.text_bytes += text_bytes;
}

int64_t SplitWriter::tokens() const { return impl_->manifest.tokens; }
int64_t SplitWriter::documents() const { return impl_->manifest.documents; }
int64_t SplitWriter::text_bytes() const { return impl_->manifest.text_bytes; }

void SplitWriter::finish() {
  if (!impl_->shards.empty() && !impl_->finished) impl_->shard().finish();
  impl_->finished = true;
}

void SplitWriter::publish(const Provenance& provenance) {
  if (impl_->manifest.tokens == 0) fail("split '", impl_->manifest.split, "' got no tokens");
  finish();
  const fs::path folder = impl_->folder;
  const fs::path manifest = folder / kManifestFile;
  // From here until the new manifest is written, what lies in the folder cannot be opened.
  fs::remove(manifest);
  for (const auto& old : shards_with_ending(folder, kShardEnding)) fs::remove(old);
  fsync_path(folder.string());
  std::vector<ShardSummary> summaries;
  for (const auto& shard : impl_->shards) {
    shard->publish();
    summaries.push_back(shard->summary());
  }
  fsync_path(folder.string());
  write_manifest(manifest.string(), impl_->manifest, impl_->tokenizer.vocab_size <= kMaxVocabOfUint16 ? 2 : 4,
                 summaries, provenance);
  impl_->shards.clear();
}

void publish_tokenizer(const std::string& output, const TokenizerInfo& tokenizer) {
  write_file_atomically((fs::path(output) / kTokenizerFile).string(), read_file(tokenizer.file));
}

}  // namespace asplash::data
