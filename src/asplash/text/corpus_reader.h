#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "asplash/text/corpus_files.h"

namespace asplash::text {

enum class InvalidUtf8 { replace, refuse };

struct CorpusOptions {
  std::vector<std::string> inputs;  ///< see find_corpus_files()
  std::string text_field = "text";  ///< of each JSON object
  InvalidUtf8 invalid_utf8 = InvalidUtf8::replace;
  /// Of a .txt file, decompressed, or of a JSON line: a document is held in memory as a whole.
  size_t most_document_bytes = size_t{1} << 30;
};

struct Document {
  std::string text;    ///< valid UTF-8
  std::string origin;  ///< "FILE" or "FILE:LINE", for messages
};

/// Documents of a corpus one by one: each .txt file is one, each line of a .jsonl file (a JSON object with a
/// string field `text_field`; empty lines are passed over) is one. Memory: the document at hand, which is
/// refused where it is longer than most_document_bytes.
class CorpusReader {
 public:
  explicit CorpusReader(const CorpusOptions& options);
  ~CorpusReader();
  CorpusReader(CorpusReader&&) noexcept;
  CorpusReader& operator=(CorpusReader&&) noexcept;

  /// False at the end. Throws asplash::Error naming file and line for what cannot be read: damaged or
  /// truncated compression, malformed JSON, a missing or wrong field, and with InvalidUtf8::refuse also
  /// invalid UTF-8.
  bool next(Document& document);

  const std::vector<CorpusFile>& files() const;
  int64_t bytes_total() const;     ///< of all files, on the disk
  int64_t bytes_consumed() const;  ///< of them, read so far
  int64_t replaced()
      const;  ///< ill-formed sequences, and escapes of half a surrogate pair, that became U+FFFD
 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace asplash::text
