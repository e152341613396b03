#include "asplash/text/utf8.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace asplash::text {
namespace {

/// A character's length by its first byte and the range its second byte must lie in; length 0: no first byte.
struct Lead {
  size_t length;
  unsigned char low;
  unsigned char high;
};

Lead lead_of(unsigned char byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

/// How many bytes from `at` on could begin a character, and whether they are a whole one.
struct Prefix {
  size_t bytes;
  bool whole;
};

Prefix prefix_at(std::string_view text, size_t at) {
  const Lead lead = lead_of(static_cast<unsigned char>(text[at]));
  if (lead.length <= 1) return {1, lead.length == 1};
  size_t bytes = 1;
  while (bytes < lead.length && at + bytes < text.size()) {
    const auto byte = static_cast<unsigned char>(text[at + bytes]);
    const bool fits = bytes == 1 ? byte >= lead.low && byte <= lead.high : (byte & 0xC0) == 0x80;
    if (!fits) return {bytes, false};
    ++bytes;
  }
  return {bytes, bytes == lead.length};
}

}  // namespace

size_t utf8_length(std::string_view text, size_t at) {
  if (at >= text.size()) return 0;
  const Prefix prefix = prefix_at(text, at);
  return prefix.whole ? prefix.bytes : 0;
}

size_t find_invalid_utf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    // Eight ASCII characters at a time: most text of most corpora.
    uint64_t word = 0;
    while (at + sizeof word <= text.size()) {
      std::memcpy(&word, text.data() + at, sizeof word);
      if ((word & 0x8080808080808080u) != 0) break;
      at += sizeof word;
    }
    if (at >= text.size()) break;
    const Prefix prefix = prefix_at(text, at);
    if (!prefix.whole) return at;
    at += prefix.bytes;
  }
  return std::string_view::npos;
}

int64_t replace_invalid_utf8(std::string& text) {
  int64_t count = 0;
  std::string result;
  size_t at = 0;
  for (;;) {
    const size_t valid = std::min(find_invalid_utf8(std::string_view(text).substr(at)), text.size() - at);
    if (count == 0 && at + valid == text.size()) return 0;
    result.append(text, at, valid);
    at += valid;
    if (at == text.size()) break;
    result += "\xEF\xBF\xBD";
    ++count;
    at += prefix_at(text, at).bytes;
  }
  text = std::move(result);
  return count;
}

}  // namespace asplash::text
