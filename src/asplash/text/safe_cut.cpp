// Where a text may be cut without changing its ids.
#include <algorithm>

#include "asplash/text/tokenizer_impl.h"
#include "asplash/text/utf8.h"

namespace asplash::text {
namespace {

/// The longest character's bytes behind its first one.
constexpr size_t kMostContinuations = 3;

bool continues_character(std::string_view text, size_t at) {
  return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80;
}

/// `at`, or the beginning of the character in whose middle it lies.
size_t character_begin(std::string_view text, size_t at) {
  for (size_t back = 0; back <= std::min(at, kMostContinuations); ++back) {
    if (!continues_character(text, at - back)) return at - back;
  }
  return at;  // not UTF-8
}

size_t next_character(std::string_view text, size_t at) {
  return at + std::max<size_t>(utf8_length(text, at), 1);
}

bool begins_word(std::string_view text, size_t at) {
  return text[at] == '\n' || text[at - 1] == '\n' || (text[at] == ' ' && text[at - 1] != ' ');
}

}  // namespace

bool Tokenizer::Impl::is_safe_cut(std::string_view text, size_t at) const {
  if (at == 0 || at == text.size()) return true;
  if (!traits.bpe) return begins_word(text, at);
  const size_t left = character_begin(text, at - 1);
  const size_t left_bytes = utf8_length(text, left);
  const size_t right_bytes = utf8_length(text, at);
  if (left + left_bytes != at || right_bytes == 0) return false;
  const std::string_view a = text.substr(left, left_bytes);
  const std::string_view b = text.substr(at, right_bytes);
  return a == kSpaceSymbol || b == kSpaceSymbol || vocabulary.never_together(code_point(a), code_point(b));
}

size_t Tokenizer::Impl::part_end(std::string_view text, size_t begin) {
  return text.size() - begin <= kPartBytes ? text.size() : character_begin(text, begin + kPartBytes);
}

size_t Tokenizer::Impl::safe_cut(std::string_view text, size_t at_least) const {
  if (at_least >= text.size() || !cuts_texts()) return text.size();
  size_t run = character_begin(text, at_least);
  while (!is_safe_cut(text, run)) run = character_begin(text, run - 1);
  size_t end = run;
  while (end < at_least) end = part_end(text, end);
  const size_t begin = run < at_least ? next_character(text, character_begin(text, at_least - 1)) : at_least;
  for (size_t at = begin; at < end; at = next_character(text, at)) {
    if (is_safe_cut(text, at)) return at;
  }
  return end;
}

}  // namespace asplash::text
