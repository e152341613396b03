#include "asplash/text/tokenizer.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/text/tokenizer_impl.h"

namespace asplash::text {
namespace {

/// What a text may have at most that cannot go in parts: SentencePiece keeps about a hundred bytes for each
/// byte of a call's text.
constexpr size_t kMostWholeBytes = 32 << 20;

void require_ok(const sentencepiece::util::Status& status, const std::string& path, const char* what) {
  if (!status.ok()) fail(path, ": ", what, ": ", status.error_message());
}

}  // namespace

Tokenizer Tokenizer::load(const std::string& path) {
  auto impl = std::make_unique<Impl>();
  const std::string serialized = read_file(path);
  impl->path = path;
  impl->hash = hash_bytes(serialized.data(), serialized.size());
  auto& processor = impl->processor;
  try {
    impl->traits = read_model_traits(serialized);
  } catch (const Error&) {
    fail(path, ": not a SentencePiece model (asplash-data tokenizer makes one)");
  }
  const auto status = processor.LoadFromSerializedProto(serialized);
  if (!status.ok() || processor.GetPieceSize() < 1)
    fail(path, ": not a SentencePiece model (asplash-data tokenizer makes one): ", status.error_message());

  const int size = processor.GetPieceSize();
  std::vector<std::string_view> pieces;
  impl->bytes.assign(static_cast<size_t>(size), -1);
  impl->of_byte.fill(-1);
  for (int id = 0; id < size; ++id) {
    const std::string& piece = processor.IdToPiece(id);
    unsigned byte = 0;
    if (processor.IsByte(id) && std::sscanf(piece.c_str(), "<0x%2X>", &byte) == 1) {
      impl->bytes[static_cast<size_t>(id)] = static_cast<int>(byte);
      impl->of_byte[byte] = id;
    } else if (!processor.IsControl(id) && !processor.IsUnknown(id)) {
      pieces.push_back(piece);
    }
  }
  for (const int32_t id : impl->of_byte) impl->traits.byte_fallback = impl->traits.byte_fallback && id >= 0;
  impl->vocabulary = Vocabulary(pieces);
  return Tokenizer(std::move(impl));
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

void Tokenizer::Impl::segment(std::string_view text, std::vector<int32_t>& ids) const {
  std::vector<int> part;
  require_ok(processor.Encode(text, &part), path, "cannot encode");
  ids.insert(ids.end(), part.begin(), part.end());
}

void Tokenizer::Impl::segment_escaped(std::string_view text, std::vector<int32_t>& ids) const {
  for (;;) {
    const size_t symbol = text.find(kSpaceSymbol);
    if (symbol != 0 && !text.empty()) segment(text.substr(0, symbol), ids);
    if (symbol == std::string_view::npos) return;
    for (const char byte : kSpaceSymbol) ids.push_back(of_byte[static_cast<unsigned char>(byte)]);
    text.remove_prefix(symbol + kSpaceSymbol.size());
  }
}

size_t word_length(std::string_view text) {
  if (text[0] == '\n') return 1;
  size_t at = 0;
  while (at < text.size() && text[at] == ' ') ++at;
  while (at < text.size() && text[at] != ' ' && text[at] != '\n') ++at;
  return at;
}

size_t Tokenizer::safe_cut(std::string_view text, size_t at_least) const {
  return impl_->safe_cut(text, at_least);
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  if (!impl_->plain()) {
    if (text.size() > kMostWholeBytes)
      fail(impl_->path, ": a text of ", text.size(),
           " bytes is too long for a model that normalizes (at most ", kMostWholeBytes,
           "): make several documents of it");
    impl_->segment(text, ids);
    return ids;
  }
  while (!text.empty()) {
    size_t part = text.size();
    if (impl_->traits.bpe)
      part = part <= kPartBytes ? part : impl_->safe_cut(text, kPartBytes);
    else if (impl_->words_apart())
      part = std::min(word_length(text), Impl::part_end(text, 0));
    impl_->segment_escaped(text.substr(0, part), ids);
    text.remove_prefix(part);
  }
  return ids;
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids) const {
  const int64_t size = vocab_size();
  for (const int32_t id : ids) {
    if (id < 0 || id >= size)
      fail(impl_->path, ": token id ", id, " is outside the vocabulary's [0, ", size, ")");
  }
  std::string text;
  require_ok(impl_->processor.Decode(std::vector<int>(ids.begin(), ids.end()), &text), impl_->path,
             "cannot decode");
  return text;
}

int64_t Tokenizer::vocab_size() const { return static_cast<int64_t>(impl_->bytes.size()); }
int32_t Tokenizer::bos_id() const { return impl_->processor.bos_id(); }
int32_t Tokenizer::eos_id() const { return impl_->processor.eos_id(); }
int32_t Tokenizer::pad_id() const { return impl_->processor.pad_id(); }
int32_t Tokenizer::unk_id() const { return impl_->processor.unk_id(); }

std::string Tokenizer::piece(int32_t id) const {
  if (id < 0 || id >= vocab_size())
    fail(impl_->path, ": token id ", id, " is outside the vocabulary's [0, ", vocab_size(), ")");
  return impl_->processor.IdToPiece(id);
}

bool Tokenizer::is_control(int32_t id) const {
  return id >= 0 && id < vocab_size() && impl_->processor.IsControl(id);
}
bool Tokenizer::is_unknown(int32_t id) const { return id == unk_id(); }
int Tokenizer::byte_of(int32_t id) const {
  return id < 0 || id >= vocab_size() ? -1 : impl_->bytes[static_cast<size_t>(id)];
}
bool Tokenizer::round_trips() const { return impl_->plain(); }
bool Tokenizer::adds_prefix_space() const { return impl_->traits.add_dummy_prefix; }

const std::string& Tokenizer::path() const { return impl_->path; }
const std::string& Tokenizer::hash() const { return impl_->hash; }

}  // namespace asplash::text
