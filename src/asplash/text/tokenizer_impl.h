#pragma once

#include <sentencepiece_processor.h>

#include <array>
#include <string>
#include <vector>

#include "asplash/text/model_proto.h"
#include "asplash/text/tokenizer.h"
#include "asplash/text/vocabulary.h"

namespace asplash::text {

/// SentencePiece keeps about a hundred bytes for each byte of a call's text: long texts go in parts.
constexpr size_t kPartBytes = 64 << 10;

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

  /// Places for cuts are known.
  bool cuts_texts() const { return traits.bpe ? plain() : words_apart(); }
  /// The ids of both sides, joined, are the ids of the whole. A unigram model weighs sums of scores: their
  /// rounding, and so the choice between equals, depends on all that goes before; encode() gives it one word
  /// at a time.
  bool is_safe_cut(std::string_view text, size_t at) const;
  /// Where a run of text without a safe cut is cut all the same: kPartBytes behind its beginning or its last
  /// cut, between two characters.
  static size_t part_end(std::string_view text, size_t begin);
  size_t safe_cut(std::string_view text, size_t at_least) const;
};

/// Bytes of the first word of a text that is not empty: a newline, or spaces and what follows them up to the
/// next space or newline.
size_t word_length(std::string_view text);

}  // namespace asplash::text
