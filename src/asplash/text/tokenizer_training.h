#pragma once

#include <cstdint>
#include <string>

#include "asplash/text/corpus_reader.h"

namespace asplash::text {

enum class TokenizerModel { bpe, unigram };

struct TokenizerTrainingOptions {
  CorpusOptions corpus;
  TokenizerModel model = TokenizerModel::bpe;
  int64_t vocab_size = 32000;          ///< pieces, the 3 control and 256 byte pieces included
  double character_coverage = 0.9995;  ///< share of the text's characters that get pieces; the rest is bytes
  int64_t sample_bytes = int64_t{100} << 20;  ///< text to train on, drawn from the whole corpus
  uint64_t seed = 0;                          ///< of the drawing
  bool split_digits = false;                  ///< each digit is a piece of its own
};

struct TokenizerTrainingReport {
  int64_t documents = 0;
  int64_t text_bytes = 0;     ///< of the corpus
  int64_t sampled_bytes = 0;  ///< trained on
  int64_t sampled_lines = 0;
  std::string hash;  ///< of the model
};

/// Trains a SentencePiece model on a uniform sample of the corpus's lines and writes it atomically.
///
/// The model changes nothing before it splits (identity normalization, no dummy prefix, spaces kept) and
/// falls back to bytes, so that text round-trips exactly. A newline and a tab are pieces of their own;
/// control pieces are <unk> 0, <s> 1, </s> 2. The same corpus, options and SentencePiece version give the
/// same file. Throws asplash::Error for an empty corpus and for a vocabulary too large or too small for the
/// text.
TokenizerTrainingReport train_tokenizer(const TokenizerTrainingOptions& options, const std::string& output);

}  // namespace asplash::text
