#include "asplash/eval/perplexity.h"

namespace asplash::eval {

TokenStream stream_of(const data::TokenDataset& dataset) {
  return {dataset.tokens(), dataset.manifest().vocab_size,
          [&dataset](int64_t begin, int64_t count, int32_t* out) { dataset.read(begin, count, out); }};
}

std::vector<ContextResult> perplexity_by_context(model::LanguageModel& model,
                                                 const data::TokenDataset& dataset,
                                                 const std::vector<int32_t>& bytes_of_token,
                                                 const PerplexityOptions& options) {
  return perplexity_by_context(model, stream_of(dataset), bytes_of_token, options);
}

double unigram_perplexity(const data::TokenDataset& dataset, int64_t targets) {
  return unigram_perplexity(stream_of(dataset), targets);
}

}  // namespace asplash::eval
