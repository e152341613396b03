#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace asplash::text {

/// UTF-8 of U+2581, as which SentencePiece writes a space.
constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";

/// Which characters stand beside each other in the pieces of a vocabulary. Where two neighbours of a text
/// never do, no piece can span them: a BPE merge or a unigram segmentation left of that place is independent
/// of what lies right of it, so the text may be cut there. (Byte-pair merges only join neighbours into
/// pieces; the order of merges on one side does not depend on the other side's.)
class Vocabulary {
 public:
  /// Pieces of text only: no control, unknown or byte-fallback pieces; spaces written as U+2581.
  explicit Vocabulary(const std::vector<std::string_view>& pieces);

  /// True if no piece holds `left` followed by `right` (code points; a space is U+0020).
  bool never_together(uint32_t left, uint32_t right) const;

  /// A text may be cut before each space that follows something else than a space.
  bool space_begins_words() const { return space_begins_words_; }
  /// A text may be cut on both sides of each newline.
  bool newline_stands_alone() const { return newline_stands_alone_; }

 private:
  std::vector<uint64_t> pairs_;  // left << 32 | right, ascending
  bool space_begins_words_ = true;
  bool newline_stands_alone_ = true;
};

/// The code point of a valid UTF-8 character.
uint32_t code_point(std::string_view character);

}  // namespace asplash::text
