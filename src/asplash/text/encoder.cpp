#include <cstring>
#include <utility>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "asplash/text/tokenizer.h"
#include "asplash/text/tokenizer_impl.h"

namespace asplash::text {
namespace {

/// Longer words are rare, and mostly met once.
constexpr size_t kMaxWordBytes = 64;

/// Ids of words, by open addressing: the words' bytes and ids lie in two arenas.
class WordCache {
 public:
  explicit WordCache(size_t bytes) : limit_(bytes) { clear(); }

  struct Ids {
    const int32_t* begin;
    const int32_t* end;
  };

  /// Ids of the word, or false.
  bool find(std::string_view word, uint64_t hash, Ids& ids) const {
    for (size_t at = hash & mask_;; at = (at + 1) & mask_) {
      const Slot& slot = slots_[at];
      if (slot.ids_end == 0) return false;
      if (slot.hash != hash || slot.word_bytes != word.size()) continue;
      if (std::memcmp(words_.data() + slot.word_begin, word.data(), word.size()) != 0) continue;
      ids = {ids_.data() + slot.ids_begin, ids_.data() + slot.ids_end};
      return true;
    }
  }

  /// Remembers a word that find() did not know; `count` >= 1.
  void insert(std::string_view word, uint64_t hash, const int32_t* ids, size_t count) {
    if (2 * (entries_ + 1) > slots_.size()) grow();
    place({hash, static_cast<uint32_t>(words_.size()), static_cast<uint32_t>(word.size()),
           static_cast<uint32_t>(ids_.size()), static_cast<uint32_t>(ids_.size() + count)});
    words_.append(word);
    ids_.insert(ids_.end(), ids, ids + count);
    ++entries_;
  }

 private:
  /// ids_end is 0 in an empty slot: ids_ begins with a filler.
  struct Slot {
    uint64_t hash = 0;
    uint32_t word_begin = 0;
    uint32_t word_bytes = 0;
    uint32_t ids_begin = 0;
    uint32_t ids_end = 0;
  };

  void clear() {
    slots_.assign(1 << 12, Slot{});
    mask_ = slots_.size() - 1;
    words_.clear();
    ids_.assign(1, 0);
    entries_ = 0;
  }

  void place(const Slot& slot) {
    size_t at = slot.hash & mask_;
    while (slots_[at].ids_end != 0) at = (at + 1) & mask_;
    slots_[at] = slot;
  }

  /// Doubles the table, or forgets everything where that would exceed the limit.
  void grow() {
    const size_t bytes = 2 * slots_.size() * sizeof(Slot) + words_.size() + ids_.size() * sizeof(int32_t);
    if (bytes > limit_) return clear();
    std::vector<Slot> old(2 * slots_.size());
    old.swap(slots_);
    mask_ = slots_.size() - 1;
    for (const Slot& slot : old) {
      if (slot.ids_end != 0) place(slot);
    }
  }

  size_t limit_;
  size_t mask_ = 0;
  size_t entries_ = 0;
  std::vector<Slot> slots_;
  std::string words_;
  std::vector<int32_t> ids_;
};

}  // namespace

struct Encoder::Impl {
  Impl(const Tokenizer& t, size_t cache_bytes) : tokenizer(t), cache(cache_bytes) {}

  const Tokenizer& tokenizer;
  WordCache cache;

  void encode_word(std::string_view word, std::vector<int32_t>& ids) {
    if (word.size() > kMaxWordBytes) {
      const std::vector<int32_t> part = tokenizer.encode(word);
      ids.insert(ids.end(), part.begin(), part.end());
      return;
    }
    const uint64_t hash = XXH3_64bits(word.data(), word.size());
    WordCache::Ids known{};
    if (cache.find(word, hash, known)) {
      ids.insert(ids.end(), known.begin, known.end);
      return;
    }
    const size_t before = ids.size();
    tokenizer.impl_->segment_escaped(word, ids);
    if (ids.size() > before) cache.insert(word, hash, ids.data() + before, ids.size() - before);
  }
};

Encoder::Encoder(const Tokenizer& tokenizer, size_t cache_bytes)
    : impl_(std::make_unique<Impl>(tokenizer, cache_bytes)) {}
Encoder::~Encoder() = default;
Encoder::Encoder(Encoder&&) noexcept = default;
Encoder& Encoder::operator=(Encoder&&) noexcept = default;

void Encoder::encode(std::string_view text, std::vector<int32_t>& ids) {
  const Tokenizer::Impl& model = *impl_->tokenizer.impl_;
  if (!model.words_apart()) {
    const std::vector<int32_t> all = impl_->tokenizer.encode(text);
    ids.insert(ids.end(), all.begin(), all.end());
    return;
  }
  while (!text.empty()) {
    const size_t length = word_length(text);
    impl_->encode_word(text.substr(0, length), ids);
    text.remove_prefix(length);
  }
}

}  // namespace asplash::text
