#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace asplash::text {
class Tokenizer;
}

namespace asplash::eval {

/// UTF-8 bytes of the text that a piece of the vocabulary stands for: as many as it has, but one for each
/// U+2581, which is how SentencePiece writes a space.
int32_t bytes_of_piece(const std::string& piece);

/// UTF-8 bytes of the text of every token id: 1 for a byte-fallback piece, 0 for control tokens (begin and
/// end of document, padding) and for the unknown token, whose text is not known.
std::vector<int32_t> bytes_of_token(const text::Tokenizer& tokenizer);

}  // namespace asplash::eval
