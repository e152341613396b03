#pragma once

#include <string_view>

namespace asplash::text {

/// What a SentencePiece model file says about how it treats text. SentencePiece's own accessors hand out a
/// protobuf message whose header its package does not install, so the few fields are read from the wire
/// format (protobuf.dev/programming-guides/encoding; field numbers of sentencepiece_model.proto).
struct ModelTraits {
  bool bpe = false;                ///< merges of byte-pair encoding, not unigram's (or another) model
  bool byte_fallback = false;      ///< characters without a piece become pieces of their bytes
  bool has_character_map = false;  ///< text is normalized (NFKC and the like) before or after
  bool add_dummy_prefix = true;    ///< a space is put before the text
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;  ///< spaces become U+2581
};

/// Throws asplash::Error if the bytes are not a protobuf message.
ModelTraits read_model_traits(std::string_view serialized);

}  // namespace asplash::text
