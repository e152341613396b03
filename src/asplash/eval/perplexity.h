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

/// Loss by position in the window (in packed documents: in the document's part of it), averaged over a
/// bucket: positions [first, last), powers of two. Position p sees p + 1 tokens.
struct PositionBucket {
  int64_t first = 0;
  int64_t last = 0;
  int64_t target_tokens = 0;
  double loss = 0;  ///< mean negative log-likelihood, nats
};

struct ContextResult {
  int64_t context = 0;
  int64_t target_tokens = 0;
  int64_t target_bytes = 0;  ///< UTF-8 bytes of the targets' text
  double loss = 0;           ///< mean negative log-likelihood, nats per token
  double perplexity = 0;     ///< exp(loss)
  double bits_per_byte = 0;
  bool beyond_trained = false;
  double tokens_per_second = 0;  ///< tokens that the model read, over the time of all windows
  std::vector<PositionBucket> by_position;
};

struct PerplexityOptions {
  std::vector<int64_t> contexts;  ///< in any order; each is evaluated once, ascending
  int64_t trained_context = 0;
  /// Targets [1, 1 + max_targets) of the stream (fewer where the stream ends); 0: all there are.
  int64_t max_targets = 0;
  /// Targets scored by each window (the last `stride` of it; all of the first); 0: the whole window, no
  /// overlap.
  int64_t stride = 0;
  int64_t tokens_per_batch = 32768;  ///< tokens that the model reads at a time; at least one window
  /// Attention and positions do not cross documents; a document's first token is no target.
  bool packed = false;
  std::string device = "cpu";
  bool show_progress = false;
};

/// A stream of tokens: a data set, or what a test puts in its place.
struct TokenStream {
  int64_t tokens = 0;
  int64_t vocab_size = 0;  ///< every token id is below it
  /// Copies tokens [begin, begin + count) to `out`.
  std::function<void(int64_t begin, int64_t count, int32_t* out)> read;
  /// The places in [begin, end), ascending, where documents begin; what is packed needs it.
  std::function<std::vector<int64_t>(int64_t begin, int64_t end)> document_begins;
};
/// The data set must outlive the stream.
TokenStream stream_of(const data::TokenDataset& dataset);

/// How many tokens of the stream an evaluation is over: targets are tokens [1, 1 + target_count) of it.
int64_t target_count(int64_t stream_tokens, int64_t max_targets);

/// Perplexity for each context length over the same target tokens. See docs/evaluation.md for the protocol.
/// bytes_of_token: UTF-8 bytes of each token id's text (for bits per byte). Losses are summed exactly
/// (loss_sum.h): batch size and order of the windows change nothing but the model's own rounding.
/// Throws asplash::Error for contexts or a stride that do not fit the data, a vocabulary larger than the
/// model's, and a loss that is not finite or absurd (naming token and context).
std::vector<ContextResult> perplexity_by_context(model::LanguageModel& model, const TokenStream& stream,
                                                 const std::vector<int32_t>& bytes_of_token,
                                                 const PerplexityOptions& options);

/// exp of the entropy of the empirical token distribution of targets [1, 1 + targets), in packed documents
/// without their first tokens: what the best possible unigram model reaches on them.
double unigram_perplexity(const TokenStream& stream, int64_t targets, bool packed);

}  // namespace asplash::eval
