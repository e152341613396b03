#include "asplash/eval/text_stream.h"

#include <algorithm>
#include <utility>

#include "asplash/text/tokenizer.h"

namespace asplash::eval {
namespace {

/// Bytes of the UTF-8 character that starts with this byte; 1 for what cannot start one.
size_t character_length(int lead) {
  if (lead >= 0xC2 && lead <= 0xDF) return 2;
  if (lead >= 0xE0 && lead <= 0xEF) return 3;
  if (lead >= 0xF0 && lead <= 0xF4) return 4;
  return 1;
}

bool is_continuation(int byte) { return (byte & 0xC0) == 0x80; }

}  // namespace

TextStream::TextStream(Decode decode, ByteOf byte_of)
    : decode_(std::move(decode)), byte_of_(std::move(byte_of)) {}

TextStream::TextStream(const text::Tokenizer& tokenizer)
    : TextStream([&tokenizer](const std::vector<int32_t>& ids) { return tokenizer.decode(ids); },
                 [&tokenizer](int32_t id) { return tokenizer.byte_of(id); }) {}

std::string TextStream::push(int32_t id) {
  ids_.push_back(id);
  return ends_inside_character() ? std::string() : emit();
}

std::string TextStream::finish() { return printed_ < ids_.size() ? emit() : std::string(); }

bool TextStream::ends_inside_character() const {
  // The last byte that starts a character is at most three bytes from the end.
  size_t after = 1;
  for (auto id = ids_.rbegin(); id != ids_.rend() && after < 4; ++id, ++after) {
    const int byte = byte_of_(*id);
    if (byte < 0) return false;
    if (!is_continuation(byte)) return after < character_length(byte);
  }
  return false;
}

std::string TextStream::emit() {
  const auto printed_end = ids_.begin() + static_cast<std::ptrdiff_t>(printed_);
  const std::string before = decode_({ids_.begin(), printed_end});
  std::string text = decode_(ids_);
  text.erase(0, std::min(before.size(), text.size()));
  // Tokens without text (control pieces) are no context to decode in: the tokens before them stay.
  if (!text.empty()) ids_.erase(ids_.begin(), printed_end);
  printed_ = ids_.size();
  return text;
}

}  // namespace asplash::eval
