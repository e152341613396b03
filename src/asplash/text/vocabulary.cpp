#include "asplash/text/vocabulary.h"

#include <algorithm>

#include "asplash/text/utf8.h"

namespace asplash::text {

uint32_t code_point(std::string_view character) {
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<unsigned char>(character[i])); };
  switch (character.size()) {
    case 1:
      return byte(0);
    case 2:
      return (byte(0) & 0x1F) << 6 | (byte(1) & 0x3F);
    case 3:
      return (byte(0) & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    default:
      return (byte(0) & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
  }
}

Vocabulary::Vocabulary(const std::vector<std::string_view>& pieces) {
  for (const std::string_view piece : pieces) {
    uint32_t left = 0;
    size_t at = 0;
    while (at < piece.size()) {
      const size_t length = std::max<size_t>(1, utf8_length(piece, at));
      const std::string_view character = piece.substr(at, length);
      const uint32_t right = character == kSpaceSymbol ? ' ' : code_point(character);
      if (at > 0) {
        pairs_.push_back(uint64_t{left} << 32 | right);
        if (right == ' ' && left != ' ') space_begins_words_ = false;
        if (left == '\n' || right == '\n') newline_stands_alone_ = false;
      }
      left = right;
      at += length;
    }
  }
  std::sort(pairs_.begin(), pairs_.end());
  pairs_.erase(std::unique(pairs_.begin(), pairs_.end()), pairs_.end());
}

bool Vocabulary::never_together(uint32_t left, uint32_t right) const {
  return !std::binary_search(pairs_.begin(), pairs_.end(), uint64_t{left} << 32 | right);
}

}  // namespace asplash::text
