#include "asplash/text/inspect.h"

#include <algorithm>
#include <filesystem>
#include <memory>

#include "asplash/base/error.h"
#include "asplash/data/dataset.h"
#include "asplash/text/random_keys.h"
#include "asplash/text/tokenizer.h"

namespace asplash::text {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kMaxCountedTokens = int64_t{1} << 26;
constexpr int64_t kReadTokens = int64_t{1} << 18;
constexpr size_t kFrequent = 10;

std::vector<std::string> find_splits(const std::string& path) {
  if (!fs::is_directory(path) || fs::exists(fs::path(path) / "manifest.json")) return {path};
  std::vector<std::string> splits;
  for (const auto& entry : fs::directory_iterator(path)) {
    if (fs::exists(entry.path() / "manifest.json")) splits.push_back(entry.path().string());
  }
  // Where there is none, opening the folder itself says why.
  if (splits.empty()) return {path};
  std::sort(splits.begin(), splits.end());
  return splits;
}

void measure_documents(const data::TokenDataset& dataset, SplitReport& report) {
  std::vector<int64_t> lengths(static_cast<size_t>(dataset.documents()));
  int64_t begin = 0;
  for (int64_t i = 0; i < dataset.documents(); ++i) {
    const int64_t end = dataset.document_begin(i + 1);
    lengths[static_cast<size_t>(i)] = end - begin;
    begin = end;
  }
  std::sort(lengths.begin(), lengths.end());
  const auto percentile = [&](double share) {
    return lengths[static_cast<size_t>(share * static_cast<double>(lengths.size() - 1) + 0.5)];
  };
  report.shortest = lengths.front();
  report.median = percentile(0.5);
  report.p90 = percentile(0.9);
  report.p99 = percentile(0.99);
  report.longest = lengths.back();
}

void count_tokens(const data::TokenDataset& dataset, const Tokenizer* tokenizer, SplitReport& report) {
  std::vector<int64_t> counts(static_cast<size_t>(report.vocab_size));
  std::vector<int32_t> tokens(static_cast<size_t>(kReadTokens));
  const int64_t reads = (dataset.tokens() + kReadTokens - 1) / kReadTokens;
  const int64_t stride = (reads * kReadTokens + kMaxCountedTokens - 1) / kMaxCountedTokens;
  for (int64_t begin = 0; begin < dataset.tokens(); begin += std::max<int64_t>(1, stride) * kReadTokens) {
    const int64_t count = std::min(kReadTokens, dataset.tokens() - begin);
    dataset.read(begin, count, tokens.data());
    for (int64_t i = 0; i < count; ++i) ++counts[static_cast<size_t>(tokens[static_cast<size_t>(i)])];
    report.counted_tokens += count;
  }
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < report.vocab_size; ++id) {
    if (counts[static_cast<size_t>(id)] > 0) ids.push_back(id);
  }
  report.used_ids = static_cast<int64_t>(ids.size());
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
    return counts[static_cast<size_t>(a)] > counts[static_cast<size_t>(b)];
  });
  for (size_t i = 0; i < std::min(kFrequent, ids.size()); ++i)
    report.frequent.push_back(
        {ids[i], tokenizer ? tokenizer->piece(ids[i]) : std::string(), counts[static_cast<size_t>(ids[i])]});
}

void draw_samples(const data::TokenDataset& dataset, const Tokenizer& tokenizer,
                  const InspectOptions& options, SplitReport& report) {
  const int64_t count = std::min(options.sample_tokens, dataset.tokens());
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int64_t i = 0; i < options.samples; ++i) {
    const auto places = static_cast<double>(dataset.tokens() - count + 1);
    const double share = random_share(options.seed, static_cast<uint64_t>(i));
    dataset.read(static_cast<int64_t>(share * places), count, tokens.data());
    report.samples.push_back(tokenizer.decode(tokens));
  }
}

SplitReport inspect_split(const std::string& path, const InspectOptions& options) {
  const auto dataset = data::TokenDataset::open(path);
  const data::Manifest& manifest = dataset.manifest();
  SplitReport report;
  report.path = manifest.path;
  report.split = manifest.split;
  report.tokenizer_hash = manifest.tokenizer_hash;
  report.vocab_size = manifest.vocab_size;
  report.shards = static_cast<int64_t>(manifest.shard_files.size());
  report.documents = manifest.documents;
  report.tokens = manifest.tokens;
  report.text_bytes = manifest.text_bytes;
  if (options.verify) dataset.verify();
  report.verified = options.verify;
  std::unique_ptr<Tokenizer> tokenizer;
  if (!manifest.tokenizer_file.empty())
    tokenizer = std::make_unique<Tokenizer>(Tokenizer::load(manifest.tokenizer_file));
  if (report.documents > 0) measure_documents(dataset, report);
  count_tokens(dataset, tokenizer.get(), report);
  if (tokenizer) draw_samples(dataset, *tokenizer, options, report);
  return report;
}

}  // namespace

std::vector<SplitReport> inspect(const std::vector<std::string>& paths, const InspectOptions& options) {
  std::vector<SplitReport> reports;
  for (const std::string& path : paths) {
    for (const std::string& split : find_splits(path)) reports.push_back(inspect_split(split, options));
  }
  return reports;
}

}  // namespace asplash::text
