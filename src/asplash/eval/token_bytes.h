#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace asplash::text {
class Tokenizer;
}

namespace asplash::eval {

/// The byte that a byte-fallback piece "<0xE4>" stands for, or -1 for any other piece.
int byte_of_piece(const std::string& piece);

/// UTF-8 bytes of the text that a piece of the vocabulary stands for; SentencePiece writes a space as U+2581.
int32_t bytes_of_piece(const std::string& piece);

/// bytes_of_piece() of every id; 0 for control tokens (begin and end of document, padding) and for the
/// unknown token, whose text is not known.
std::vector<int32_t> bytes_of_token(const text::Tokenizer& tokenizer);

}  // namespace asplash::eval
