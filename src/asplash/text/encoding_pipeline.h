#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "asplash/text/corpus_reader.h"
#include "asplash/text/tokenizer.h"

namespace asplash::text {

/// A document, or a part of a long one.
struct Segment {
  std::shared_ptr<const std::string> text;  ///< of the whole document
  size_t begin = 0;                         ///< of this part
  size_t end = 0;
  int64_t document = 0;  ///< number of the document in the corpus, empty ones not counted
  size_t ids_end = 0;    ///< of its ids within its task's, which begin where those before it end

  bool first() const { return begin == 0; }
  bool last() const { return end == text->size(); }
};

/// What one encoding thread does at a time.
struct EncodingTask {
  std::vector<Segment> segments;
  size_t bytes = 0;            ///< of text
  int64_t bytes_consumed = 0;  ///< of the corpus's files, when it was read
  std::vector<int32_t> ids;
};

struct EncodingOptions {
  int threads = 1;
  int32_t bos_id = -1;  ///< put before each document; -1: none
  int32_t eos_id = -1;  ///< put after each document; -1: none
};

/// Reads documents in one thread, encodes them in `threads` others, and hands the tasks to `write` in the
/// corpus's order in the caller's thread. Documents without text are left out; returns how many there were.
/// Rethrows the first error of any thread; throws asplash::Error when interrupted().
int64_t encode_corpus(CorpusReader& reader, const Tokenizer& tokenizer, const EncodingOptions& options,
                      const std::function<void(const EncodingTask&)>& write);

}  // namespace asplash::text
