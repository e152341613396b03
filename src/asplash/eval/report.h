#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "asplash/eval/perplexity.h"

namespace asplash::eval {

/// What asplash-eval tells: the results and everything needed to read them later.
struct EvaluationReport {
  std::string checkpoint;
  int64_t step = 0;
  std::string attention;  ///< "softmax" or "entmax"
  double alpha = 1.0;     ///< 1 for softmax, which is entmax's limit there
  std::string positions;  ///< "rope", "nope", "alibi", "nape"
  int64_t parameters = 0;
  int64_t trained_context = 0;
  std::string dataset;
  std::string split;
  std::string tokenizer_hash;
  bool packed = false;  ///< documents are kept apart; otherwise they are one stream
  int64_t stride = 0;   ///< 0: windows do not overlap
  int64_t target_tokens = 0;
  double unigram_perplexity = 0;
  std::string device;
  std::string precision;
  std::vector<ContextResult> results;
};

/// Indented JSON with the keys listed in docs/evaluation.md, the version of this program and the date (UTC)
/// added.
std::string to_json(const EvaluationReport& report);

/// A heading, one row a context length (those beyond the trained one marked "*"), the unigram model's
/// perplexity.
std::string to_text(const EvaluationReport& report);

/// Loss in nats by position (rows) and context length (columns).
std::string positions_to_text(const EvaluationReport& report);

}  // namespace asplash::eval
