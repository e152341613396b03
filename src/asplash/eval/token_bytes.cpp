#include "asplash/eval/token_bytes.h"

#include "asplash/text/tokenizer.h"

namespace asplash::eval {

int32_t bytes_of_piece(const std::string& piece) {
  static const std::string kSpace = "\xE2\x96\x81";
  auto bytes = static_cast<int32_t>(piece.size());
  for (size_t at = piece.find(kSpace); at != std::string::npos; at = piece.find(kSpace, at + kSpace.size()))
    bytes -= static_cast<int32_t>(kSpace.size()) - 1;
  return bytes;
}

std::vector<int32_t> bytes_of_token(const text::Tokenizer& tokenizer) {
  std::vector<int32_t> bytes;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.is_control(id) || tokenizer.is_unknown(id)) {
      bytes.push_back(0);
    } else {
      bytes.push_back(tokenizer.byte_of(id) >= 0 ? 1 : bytes_of_piece(tokenizer.piece(id)));
    }
  }
  return bytes;
}

}  // namespace asplash::eval
