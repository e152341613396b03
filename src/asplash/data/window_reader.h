#pragma once

#include <cstdint>
#include <vector>

#include "asplash/data/dataset.h"
#include "asplash/data/loader.h"

namespace asplash::data {

/// Fills rows of a batch with windows of the token stream: window w holds the tokens
/// [w * context, (w + 1) * context) as input and, one further each, as targets.
class WindowReader {
 public:
  WindowReader(const TokenDataset& dataset, int64_t context, bool packed);

  /// Windows of the data set: each has context tokens and one target more; a shorter rest is left out.
  static int64_t count(const TokenDataset& dataset, int64_t context);

  /// Reads windows[i] into row i of `batch`, whose buffers exist, and sets what depends on them: targets,
  /// valid_targets, cu_seqlens.
  void read(const std::vector<int64_t>& windows, Batch& batch);

 private:
  void cut_at_documents(int64_t first_token, int64_t row, Batch& batch) const;

  const TokenDataset& dataset_;
  int64_t context_;
  bool packed_;
  std::vector<int32_t> window_;  // context + 1 tokens
};

}  // namespace asplash::data
