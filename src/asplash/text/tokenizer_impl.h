#pragma once

#include <sentencepiece_processor.h>

#include <array>
#include <string>
#include <vector>

#include "asplash/text/model_proto.h"
#include "asplash/text/tokenizer.h"
#include "asplash/text/vocabulary.h"

namespace asplash::text {

struct Tokenizer::Impl {
  std::string path;
  std::string hash;
  sentencepiece::SentencePieceProcessor processor;
  ModelTraits traits;
  Vocabulary vocabulary{{}};
  std::vector<int> bytes;            // by id: the byte of a byte-fallback piece, else -1
  std::array<int32_t, 256> of_byte;  // by byte: the id of its byte-fallback piece

  /// SentencePiece sees the text as it is: cutting and escaping are ours.
  bool plain() const {
    return traits.byte_fallback && !traits.has_character_map && !traits.add_dummy_prefix &&
           !traits.remove_extra_whitespaces && traits.escape_whitespaces;
  }
  /// No piece reaches over the beginning of a word (see word_length()).
  bool words_apart() const {
    return plain() && vocabulary.space_begins_words() && vocabulary.newline_stands_alone();
  }
  /// Appends SentencePiece's ids of the text.
  void segment(std::string_view text, std::vector<int32_t>& ids) const;
  /// Like segment() for plain() models, literal U+2581 as bytes.
  void segment_escaped(std::string_view text, std::vector<int32_t>& ids) const;
  size_t safe_cut(std::string_view text, size_t at_least) const;
};

/// Bytes of the first word of a text that is not empty: a newline, or spaces and what follows them up to the
/// next space or newline.
size_t word_length(std::string_view text);

}  // namespace asplash::text
