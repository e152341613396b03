#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace asplash::text {
class Tokenizer;
}

namespace asplash::eval {

/// Turns tokens into text as they come: what all calls return, joined, is the decoded text of all tokens, and
/// every call returns whole characters. Tokens of single bytes (byte fallback) are held back until their
/// character is complete. Text is decoded together with the tokens before it, so that a tokenizer that drops
/// the first space drops only that one.
class TextStream {
 public:
  /// What the stream needs of a tokenizer: the text of a sequence of ids, and the byte that an id stands for
  /// (-1 where it is not a byte-fallback piece).
  using Decode = std::function<std::string(const std::vector<int32_t>& ids)>;
  using ByteOf = std::function<int(int32_t id)>;
  TextStream(Decode decode, ByteOf byte_of);
  /// The tokenizer must outlive the stream.
  explicit TextStream(const text::Tokenizer& tokenizer);

  /// The text that this token completes; may be empty.
  std::string push(int32_t id);
  /// What is still held back: an incomplete character, decoded as the tokenizer does (U+FFFD).
  std::string finish();

 private:
  bool ends_inside_character() const;
  std::string emit();

  Decode decode_;
  ByteOf byte_of_;
  std::vector<int32_t> ids_;  // the last printed piece of text, then what is not printed yet
  size_t printed_ = 0;        // how many of ids_ are printed
};

}  // namespace asplash::eval
