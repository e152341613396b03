#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace asplash::text {

/// A uniform sample of a corpus's lines within a limit of bytes, drawn in one pass: each line gets a random
/// key from (seed, its number), and the lines of the smallest keys are kept (reservoir sampling).
class LineSample {
 public:
  LineSample(int64_t limit_bytes, uint64_t seed);

  /// Adds a document's lines. Long lines are cut at spaces; characters that SentencePiece's trainer reserves
  /// (NUL, tab, U+2581, U+2585) end a line: it could not learn from them.
  void add_document(std::string_view text);

  int64_t bytes() const { return bytes_; }
  size_t lines() const { return kept_.size(); }
  /// The sample in the corpus's order; the object is empty afterwards.
  std::vector<std::string> take();

 private:
  struct Line {
    uint64_t key;
    uint64_t number;
    std::string text;
    bool operator<(const Line& other) const { return key < other.key; }
  };

  void add_line(std::string_view line);

  int64_t limit_;
  uint64_t seed_;
  uint64_t next_number_ = 0;
  int64_t bytes_ = 0;
  std::vector<Line> kept_;  // heap, the largest key first
};

}  // namespace asplash::text
