#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace asplash::text {

struct InspectOptions {
  int64_t samples = 0;  ///< decoded samples to show
  int64_t sample_tokens = 64;
  uint64_t seed = 0;    ///< of the samples' places
  bool verify = false;  ///< check every block of every shard
};

struct TokenCount {
  int32_t id = 0;
  std::string piece;
  int64_t count = 0;
};

/// What a packed split holds.
struct SplitReport {
  std::string path;  ///< of its manifest
  std::string split;
  std::string tokenizer_hash;
  int64_t vocab_size = 0;
  int64_t shards = 0;
  int64_t documents = 0;
  int64_t tokens = 0;
  int64_t text_bytes = 0;
  bool verified = false;
  /// Tokens of a document: shortest, median, 90th and 99th percentile, longest.
  int64_t shortest = 0, median = 0, p90 = 0, p99 = 0, longest = 0;
  int64_t counted_tokens = 0;        ///< tokens behind `frequent` and `used_ids` (large splits: evenly drawn)
  int64_t used_ids = 0;              ///< different ids among them
  std::vector<TokenCount> frequent;  ///< the most frequent ones
  std::vector<std::string> samples;  ///< decoded text of random places
};

/// The packed splits that paths name: a manifest, a split's folder, or a folder of splits. Throws
/// asplash::Error where there is none, and for damaged data.
std::vector<SplitReport> inspect(const std::vector<std::string>& paths, const InspectOptions& options);

std::string to_text(const std::vector<SplitReport>& splits);
std::string to_json(const std::vector<SplitReport>& splits);

}  // namespace asplash::text
