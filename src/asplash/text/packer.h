#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "asplash/text/corpus_reader.h"
#include "asplash/text/splits.h"

namespace asplash::text {

struct PackOptions {
  CorpusOptions corpus;
  std::string tokenizer;           ///< SentencePiece model
  std::string output;              ///< folder: OUT/tokenizer.model, OUT/<split>/manifest.json and shards
  std::vector<SplitShare> splits;  ///< besides `rest`
  std::string rest = "train";      ///< the split of all other documents
  uint64_t split_seed = 0;
  bool bos = true;  ///< put the begin-of-document token before each document
  bool eos = true;  ///< put the end-of-document token after each document
  int64_t shard_tokens = int64_t{1} << 28;
  int threads = 0;         ///< that encode; 0: all cores
  bool overwrite = false;  ///< replace packed splits of the same names
};

struct PackedSplit {
  std::string name;
  int64_t documents = 0;
  int64_t tokens = 0;
  int64_t text_bytes = 0;
};

struct PackReport {
  std::vector<PackedSplit> splits;  ///< the rest first
  int64_t empty_documents = 0;      ///< left out
  int64_t replaced = 0;             ///< ill-formed UTF-8 sequences that became U+FFFD
  double seconds = 0;
};

/// Encodes a corpus into token shards: one thread reads, `threads` encode, the caller's writes in the
/// corpus's order. The shards depend on corpus, tokenizer and options, not on the number of threads. Memory
/// is bounded by the longest document and some tens of megabytes. Splits become visible together at the end;
/// a run that is interrupted or fails leaves those of before as they were. Throws asplash::Error, also if a
/// split gets no document or a packed split is in the way.
PackReport pack(const PackOptions& options);

}  // namespace asplash::text
