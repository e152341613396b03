#include "asplash/data/dataset.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/data/manifest.h"
#include "asplash/data/mapped_shard.h"

namespace asplash::data {

struct TokenDataset::Impl {
  Manifest manifest;
  std::vector<std::unique_ptr<MappedShard>> shards;
  // First token and first document of each shard; one entry more for the end.
  std::vector<int64_t> token_begin{0};
  std::vector<int64_t> document_begin{0};

  /// The shard whose range in `begins` holds the value; shards without any are passed over.
  static size_t find(const std::vector<int64_t>& begins, int64_t value) {
    return static_cast<size_t>(std::upper_bound(begins.begin(), begins.end(), value) - begins.begin()) - 1;
  }
  void check_range(int64_t begin, int64_t count) const {
    if (begin < 0 || count < 0 || begin > manifest.tokens - count)
      fail(manifest.path, ": ", count, " tokens from ", begin, " on are outside its ", manifest.tokens);
  }
  void check_document(int64_t document) const {
    if (document < 0 || document >= manifest.documents)
      fail(manifest.path, ": document ", document, " is outside its ", manifest.documents);
  }

  /// Calls visit(shard, begin within it, count) for each shard's part of the range.
  template <class Visit>
  void for_each_part(int64_t begin, int64_t count, const Visit& visit) const {
    check_range(begin, count);
    for (size_t i = find(token_begin, begin); count > 0; ++i) {
      const int64_t part = std::min(count, token_begin[i + 1] - begin);
      if (part > 0) visit(*shards[i], begin - token_begin[i], part);
      begin += part;
      count -= part;
    }
  }
};

namespace {

void check_tokenizer(const Manifest& manifest) {
  if (manifest.tokenizer_hash.empty()) return;
  if (!std::filesystem::exists(manifest.tokenizer_file))
    fail(manifest.path, ": tokenizer.file: ", manifest.tokenizer_file,
         " is missing; put the SentencePiece model there that the data was packed with");
  const std::string hash = hash_file(manifest.tokenizer_file);
  if (hash != manifest.tokenizer_hash)
    fail(manifest.path, ": packed with tokenizer ", manifest.tokenizer_hash, ", but ",
         manifest.tokenizer_file, " has hash ", hash, ": restore the tokenizer or pack again");
}

}  // namespace

TokenDataset TokenDataset::open(const std::string& manifest_path_or_folder) {
  auto impl = std::make_unique<Impl>();
  DetailedManifest detailed = read_detailed_manifest(manifest_path_or_folder);
  Manifest& manifest = impl->manifest = std::move(detailed.manifest);
  check_tokenizer(manifest);
  int64_t text_bytes = 0;
  for (size_t i = 0; i < detailed.shards.size(); ++i) {
    const std::string& path = manifest.shard_files[i];
    if (!std::filesystem::exists(path)) fail(path, ": this shard is missing (named in ", manifest.path, ")");
    impl->shards.push_back(std::make_unique<MappedShard>(path, detailed.shards[i], manifest.tokenizer_hash,
                                                         manifest.vocab_size));
    const MappedShard& shard = *impl->shards.back();
    impl->token_begin.push_back(impl->token_begin.back() + shard.tokens());
    impl->document_begin.push_back(impl->document_begin.back() + shard.documents());
    text_bytes += shard.text_bytes();
  }
  if (impl->token_begin.back() != manifest.tokens || impl->document_begin.back() != manifest.documents ||
      text_bytes != manifest.text_bytes)
    fail(manifest.path, ": says ", manifest.tokens, " tokens, ", manifest.documents, " documents, ",
         manifest.text_bytes, " text bytes; its shards hold ", impl->token_begin.back(), ", ",
         impl->document_begin.back(), ", ", text_bytes, ": the manifest is damaged; pack again");
  return TokenDataset(std::move(impl));
}

TokenDataset::TokenDataset(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TokenDataset::~TokenDataset() = default;
TokenDataset::TokenDataset(TokenDataset&&) noexcept = default;
TokenDataset& TokenDataset::operator=(TokenDataset&&) noexcept = default;

const Manifest& TokenDataset::manifest() const { return impl_->manifest; }
int64_t TokenDataset::tokens() const { return impl_->manifest.tokens; }
int64_t TokenDataset::documents() const { return impl_->manifest.documents; }

void TokenDataset::read(int64_t begin, int64_t count, int32_t* out) const {
  impl_->for_each_part(begin, count, [&](const MappedShard& shard, int64_t first, int64_t part) {
    shard.read(first, part, out);
    out += part;
  });
}

void TokenDataset::will_need(int64_t begin, int64_t count) const {
  impl_->for_each_part(begin, count, [](const MappedShard& shard, int64_t first, int64_t part) {
    shard.will_need(first, part);
  });
}

int64_t TokenDataset::document_begin(int64_t document) const {
  if (document == documents()) return tokens();
  impl_->check_document(document);
  const size_t shard = Impl::find(impl_->document_begin, document);
  const DocumentEntry entry = impl_->shards[shard]->document(document - impl_->document_begin[shard]);
  return impl_->token_begin[shard] + static_cast<int64_t>(entry.first_token);
}

int64_t TokenDataset::document_of(int64_t token) const {
  impl_->check_range(token, 1);
  const size_t shard = Impl::find(impl_->token_begin, token);
  return impl_->document_begin[shard] + impl_->shards[shard]->document_of(token - impl_->token_begin[shard]);
}

int64_t TokenDataset::document_text_bytes(int64_t document) const {
  impl_->check_document(document);
  const size_t shard = Impl::find(impl_->document_begin, document);
  return static_cast<int64_t>(
      impl_->shards[shard]->document(document - impl_->document_begin[shard]).text_bytes);
}

void TokenDataset::verify() const {
  for (const auto& shard : impl_->shards) shard->verify();
}

}  // namespace asplash::data
