#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace asplash::text {

/// A SentencePiece model (Kudo and Richardson 2018, arXiv 1808.06226). Thread-safe for reading.
///
/// For models made by train_tokenizer() (identity normalization, byte fallback) decode(encode(x)) == x for
/// every valid UTF-8 text x, U+2581 included: SentencePiece writes a space as that character, so a literal
/// one is encoded by its three byte-fallback pieces instead. Byte-pair models give SentencePiece's own ids
/// (but see safe_cut()); unigram models segment each word by itself, so that long texts cost linear time and
/// memory, and ties between equally likely segmentations do not depend on what goes before. Models from
/// elsewhere that normalize are applied as they are.
class Tokenizer {
 public:
  /// Throws asplash::Error naming the file if it is missing or not a SentencePiece model.
  static Tokenizer load(const std::string& path);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  /// Ids of the text, without begin or end of document. Invalid UTF-8 is encoded as U+FFFD.
  std::vector<int32_t> encode(std::string_view text) const;
  /// The text of ids; control pieces have none, incomplete byte-fallback sequences become U+FFFD.
  /// Throws asplash::Error for an id outside [0, vocab_size()).
  std::string decode(const std::vector<int32_t>& ids) const;

  /// A position, at least `at_least` and at most text.size(), where the text may be cut so that the ids of
  /// both parts, joined, are the ids of the whole: no piece of the vocabulary holds the two characters around
  /// it. Where 64 KiB go by without such a place, encode() cuts there, and this does, too, so that memory
  /// stays bounded. text.size() for models from elsewhere that normalize.
  size_t safe_cut(std::string_view text, size_t at_least) const;

  int64_t vocab_size() const;
  int32_t bos_id() const;  ///< begin of document, -1: none
  int32_t eos_id() const;  ///< end of document, -1: none
  int32_t pad_id() const;  ///< -1: none
  int32_t unk_id() const;  ///< unknown

  /// The piece as the model's file has it: a space is U+2581, byte 10 is "<0x0A>".
  std::string piece(int32_t id) const;
  /// Begin and end of document, padding, and other pieces that stand for no text.
  bool is_control(int32_t id) const;
  bool is_unknown(int32_t id) const;
  /// The byte that a byte-fallback piece stands for, -1 for all other pieces.
  int byte_of(int32_t id) const;
  /// True if the model has byte-fallback pieces and changes nothing before it splits: text round-trips.
  bool round_trips() const;
  /// True if the model puts a space before every text (Llama's does); decode() takes it away again.
  bool adds_prefix_space() const;

  const std::string& path() const;
  /// hash_file() of the model: what manifests and shards name.
  const std::string& hash() const;

 private:
  friend class Encoder;
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Encodes like Tokenizer::encode(), remembering the words it has met: natural text repeats its words, and a
/// look-up costs a fraction of a segmentation. One per thread. Where the vocabulary allows no cut before
/// spaces (pieces of several words), or the model normalizes, it just calls the tokenizer.
class Encoder {
 public:
  /// The tokenizer must outlive the encoder. `cache_bytes` bounds the memory of remembered words.
  explicit Encoder(const Tokenizer& tokenizer, size_t cache_bytes = size_t{64} << 20);
  ~Encoder();
  Encoder(Encoder&&) noexcept;
  Encoder& operator=(Encoder&&) noexcept;

  /// Appends the ids of the text.
  void encode(std::string_view text, std::vector<int32_t>& ids);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace asplash::text
