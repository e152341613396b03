#include "asplash/eval/perplexity.h"

namespace asplash::eval {

TokenStream stream_of(const data::TokenDataset& dataset) {
  TokenStream stream;
  stream.tokens = dataset.tokens();
  stream.vocab_size = dataset.manifest().vocab_size;
  stream.read = [&dataset](int64_t begin, int64_t count, int32_t* out) { dataset.read(begin, count, out); };
  stream.document_begins = [&dataset](int64_t begin, int64_t end) {
    std::vector<int64_t> begins;
    for (int64_t d = begin > 0 ? dataset.document_of(begin - 1) + 1 : 0; d < dataset.documents(); ++d) {
      const int64_t at = dataset.document_begin(d);
      if (at >= end) break;
      // Documents without tokens begin where the next one does.
      if (begins.empty() || begins.back() != at) begins.push_back(at);
    }
    return begins;
  };
  return stream;
}

}  // namespace asplash::eval
