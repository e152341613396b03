#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "asplash/data/dataset.h"

namespace asplash::model {
class LanguageModel;
}

namespace asplash::eval {

/// Loss by position in the window, averaged over a bucket [first, last).
struct PositionBucket {
  int64_t first = 0;
  int64_t last = 0;
  int64_t target_tokens = 0;
  double loss = 0;  ///< mean negative log-likelihood, nats
};

struct ContextResult {
  int64_t context = 0;
  int64_t target_tokens = 0;
  double loss = 0;        ///< mean negative log-likelihood, nats per token
  double perplexity = 0;  ///< exp(loss)
  double bits_per_byte = 0;
  bool beyond_trained = false;
  double tokens_per_second = 0;
  std::vector<PositionBucket> by_position;
};

struct PerplexityOptions {
  std::vector<int64_t> contexts;
  int64_t trained_context = 0;
  /// Targets [1, 1 + max_targets) of the stream, rounded down as the protocol says; 0: all there are.
  int64_t max_targets = 0;
  /// Targets scored by each window (the last `stride` of it); 0: the whole window, no overlap.
  int64_t stride = 0;
  int64_t tokens_per_batch = 32768;
  std::string device = "cpu";
  bool show_progress = false;
};

/// Perplexity for each context length over the same target tokens. See docs/evaluation.md for the protocol.
/// bytes_of_token: UTF-8 bytes of each token id's text (for bits per byte).
std::vector<ContextResult> perplexity_by_context(model::LanguageModel& model, const data::TokenDataset& dataset,
                                                 const std::vector<int32_t>& bytes_of_token,
                                                 const PerplexityOptions& options);

/// exp of the entropy of the empirical token distribution of targets [1, 1 + targets): what the best possible
/// unigram model reaches on them.
double unigram_perplexity(const data::TokenDataset& dataset, int64_t targets);

}  // namespace asplash::eval
