#pragma once

#include <cstdint>

namespace asplash::eval {

/// One evaluation window over a token stream: the model reads tokens [begin, begin + length); position p
/// predicts token begin + p + 1; positions [first_scored, length) are scored.
struct Window {
  int64_t begin = 0;
  int64_t length = 0;
  int64_t first_scored = 0;
};

/// The windows that score each of the targets 1 ... `targets` of a stream exactly once, whatever the context
/// length (docs/evaluation.md). Window k begins at token k * stride. The first window scores all of its
/// targets, each later one its last `stride`; the last window is as short as what is left. All windows but
/// the last are `context` long.
class EvaluationWindows {
 public:
  /// stride 0: as long as the context (no overlap). Throws asplash::Error unless
  /// 1 <= stride <= context <= targets.
  EvaluationWindows(int64_t targets, int64_t context, int64_t stride);

  int64_t size() const { return size_; }
  Window operator[](int64_t index) const;
  /// Tokens that the model reads over all windows; more than the targets where windows overlap.
  int64_t input_tokens() const;

 private:
  int64_t targets_;
  int64_t context_;
  int64_t stride_;
  int64_t size_;
};

}  // namespace asplash::eval
