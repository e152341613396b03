#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "asplash/data/dataset.h"

namespace asplash::data {

/// What a finished shard's entry in the manifest says.
struct ShardSummary {
  std::string file;  ///< name within the split's folder
  int64_t bytes = 0;
  int64_t tokens = 0;
  int64_t documents = 0;
  std::string checksum;  ///< ShardHeader::checksum
};

/// What the tokens mean. `file` is copied beside the splits; empty for made-up data without a tokenizer.
struct TokenizerInfo {
  std::string file;
  std::string hash;  ///< hash_file() of it; empty: none
  int64_t vocab_size = 0;
  int64_t bos_id = -1;  ///< put before each document; -1: none
  int64_t eos_id = -1;  ///< put after each document; -1: none
};

/// Where the tokens come from, for the manifest.
struct Provenance {
  std::vector<std::pair<std::string, int64_t>> sources;      ///< path and size in bytes
  std::vector<std::pair<std::string, std::string>> options;  ///< how they were packed
};

/// Writes one split, OUT/SPLIT/: documents one after the other into shards named shard-NNNNN.tokens. They
/// bear the ending .tmp until publish(), which renames them and writes manifest.json last: what an
/// interruption leaves cannot be taken for a packed split. The destructor removes what was not published.
class SplitWriter {
 public:
  /// Makes the folder; removes .tmp files of interrupted runs. A new shard begins at the first document after
  /// `shard_tokens` tokens of the last one.
  SplitWriter(const std::string& output, const std::string& split, const TokenizerInfo& tokenizer,
              int64_t shard_tokens);
  ~SplitWriter();
  SplitWriter(SplitWriter&&) noexcept;
  SplitWriter& operator=(SplitWriter&&) noexcept;

  /// Begins a document; append() adds tokens to it. Throws asplash::Error for an id outside the vocabulary.
  void begin_document();
  void append(const int32_t* tokens, int64_t count);
  /// UTF-8 bytes of the document's text.
  void end_document(int64_t text_bytes);

  int64_t tokens() const;
  int64_t documents() const;
  int64_t text_bytes() const;

  /// Completes the last shard; after this, only publish() may be called.
  void finish();
  /// Puts the shards (and nothing else) in the place of those that lie there, then writes the manifest. The
  /// tokenizer must lie in OUT already (see publish_tokenizer). Throws asplash::Error for a split without
  /// tokens.
  void publish(const Provenance& provenance);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Copies the tokenizer to OUT/tokenizer.model.
void publish_tokenizer(const std::string& output, const TokenizerInfo& tokenizer);

}  // namespace asplash::data
