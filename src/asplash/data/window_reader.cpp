#include "asplash/data/window_reader.h"

#include <algorithm>

namespace asplash::data {

WindowReader::WindowReader(const TokenDataset& dataset, int64_t context, bool packed)
    : dataset_(dataset), context_(context), packed_(packed), window_(static_cast<size_t>(context) + 1) {}

int64_t WindowReader::count(const TokenDataset& dataset, int64_t context) {
  return std::max<int64_t>(0, dataset.tokens() - 1) / context;
}

void WindowReader::read(const std::vector<int64_t>& windows, Batch& batch) {
  for (const int64_t window : windows) dataset_.will_need(window * context_, context_ + 1);
  batch.valid_targets = batch.rows * context_;
  batch.cu_seqlens.clear();
  if (packed_) batch.cu_seqlens.push_back(0);
  for (size_t row = 0; row < windows.size(); ++row) {
    const int64_t first = windows[row] * context_;
    dataset_.read(first, context_ + 1, window_.data());
    const auto offset = static_cast<int64_t>(row) * context_;
    std::copy(window_.begin(), window_.end() - 1, batch.tokens.get() + offset);
    std::copy(window_.begin() + 1, window_.end(), batch.targets.get() + offset);
    if (packed_) cut_at_documents(first, static_cast<int64_t>(row), batch);
  }
}

void WindowReader::cut_at_documents(int64_t first_token, int64_t row, Batch& batch) const {
  const int64_t row_begin = row * context_;
  const auto boundary = [&](int64_t at) {
    // Documents without tokens begin where the next one does.
    if (at == batch.cu_seqlens.back()) return;
    batch.cu_seqlens.push_back(static_cast<int32_t>(at));
  };
  const int64_t end = first_token + context_;
  for (int64_t document = dataset_.document_of(first_token) + 1; document < dataset_.documents();
       ++document) {
    const int64_t begin = dataset_.document_begin(document);
    if (begin > end) break;
    // The token before a document's first one must not predict it.
    int32_t& target = batch.targets.get()[row_begin + begin - 1 - first_token];
    if (target != kIgnoredTarget) --batch.valid_targets;
    target = kIgnoredTarget;
    if (begin < end) boundary(row_begin + begin - first_token);
  }
  boundary(row_begin + context_);
}

}  // namespace asplash::data
