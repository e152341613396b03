#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace asplash::data {

/// What manifest.json of a packed split says (written last, so its presence means the shards are whole).
struct Manifest {
  std::string path;   ///< of the manifest itself
  std::string split;  ///< "train", "valid", ...
  std::string
      tokenizer_file;  ///< copy of the SentencePiece model beside the splits, resolved against the manifest
  std::string tokenizer_hash;  ///< hash_file() of it
  int64_t vocab_size = 0;
  int64_t bos_id = -1;  ///< put before each document; -1: none
  int64_t eos_id = -1;  ///< put after each document; -1: none
  int64_t tokens = 0;
  int64_t documents = 0;
  int64_t text_bytes = 0;  ///< UTF-8 bytes of the text behind the tokens
  std::vector<std::string> shard_files;
};

/// Reads a manifest file, or manifest.json of a folder. Throws asplash::Error naming file and key.
Manifest read_manifest(const std::string& path_or_folder);

/// A split's shards, memory-mapped: one stream of tokens, documents in order. Opening costs O(shards):
/// sizes, headers and their checksums are checked at once, each block of tokens when it is first read.
/// Thread-safe for reading.
class TokenDataset {
 public:
  /// Throws asplash::Error naming the shard that is missing, truncated, damaged or of another tokenizer.
  static TokenDataset open(const std::string& manifest_path_or_folder);
  ~TokenDataset();
  TokenDataset(TokenDataset&&) noexcept;
  TokenDataset& operator=(TokenDataset&&) noexcept;

  const Manifest& manifest() const;
  int64_t tokens() const;
  int64_t documents() const;

  /// Copies tokens [begin, begin + count) of the stream to `out`. Throws Error if the range is outside, a
  /// block's checksum fails, or a token id is not below the vocabulary's size.
  void read(int64_t begin, int64_t count, int32_t* out) const;

  /// Asks the system to bring these tokens into memory; returns at once. Same range errors as read().
  void will_need(int64_t begin, int64_t count) const;

  /// First token of document i (0 <= i <= documents(); the last one is tokens()).
  int64_t document_begin(int64_t document) const;
  /// The document that holds the token.
  int64_t document_of(int64_t token) const;
  /// UTF-8 bytes of document i's text.
  int64_t document_text_bytes(int64_t document) const;

  /// Checks every block of every shard (asplash-data inspect --verify).
  void verify() const;

 private:
  struct Impl;
  explicit TokenDataset(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace asplash::data
