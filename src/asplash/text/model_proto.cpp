#include "asplash/text/model_proto.h"

#include <cstdint>

#include "asplash/base/error.h"

namespace asplash::text {
namespace {

// Field numbers of sentencepiece_model.proto.
constexpr uint64_t kTrainerSpec = 2;
constexpr uint64_t kNormalizerSpec = 3;
constexpr uint64_t kDenormalizerSpec = 5;
constexpr uint64_t kModelType = 3;
constexpr uint64_t kModelTypeBpe = 2;
constexpr uint64_t kByteFallback = 35;
constexpr uint64_t kCharacterMap = 2;
constexpr uint64_t kAddDummyPrefix = 3;
constexpr uint64_t kRemoveExtraWhitespaces = 4;
constexpr uint64_t kEscapeWhitespaces = 5;

/// Walks over the fields of one message.
class Message {
 public:
  explicit Message(std::string_view bytes) : bytes_(bytes) {}

  /// Goes to the next field; false at the end.
  bool next() {
    if (at_ == bytes_.size()) return false;
    const uint64_t key = varint();
    number = key >> 3;
    content = {};
    value = 0;
    switch (key & 7) {
      case 0:
        value = varint();
        break;
      case 1:
        take(8);
        break;
      case 2:
        content = take(varint());
        break;
      case 5:
        take(4);
        break;
      default:
        malformed();
    }
    return true;
  }

  uint64_t number = 0;
  uint64_t value = 0;        // of a varint field
  std::string_view content;  // of a length-delimited field

 private:
  [[noreturn]] static void malformed() { fail("not a protobuf message"); }

  uint64_t varint() {
    uint64_t result = 0;
    for (int shift = 0; shift < 64 && at_ < bytes_.size(); shift += 7) {
      const auto byte = static_cast<unsigned char>(bytes_[at_++]);
      result |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return result;
    }
    malformed();
  }

  std::string_view take(uint64_t count) {
    if (count > bytes_.size() - at_) malformed();
    const std::string_view taken = bytes_.substr(at_, count);
    at_ += count;
    return taken;
  }

  std::string_view bytes_;
  size_t at_ = 0;
};

}  // namespace

ModelTraits read_model_traits(std::string_view serialized) {
  ModelTraits traits;
  Message model(serialized);
  while (model.next()) {
    Message spec(model.content);
    if (model.number == kTrainerSpec) {
      while (spec.next()) {
        if (spec.number == kModelType) traits.bpe = spec.value == kModelTypeBpe;
        if (spec.number == kByteFallback) traits.byte_fallback = spec.value != 0;
      }
    } else if (model.number == kNormalizerSpec || model.number == kDenormalizerSpec) {
      while (spec.next()) {
        if (spec.number == kCharacterMap && !spec.content.empty()) traits.has_character_map = true;
        if (model.number == kDenormalizerSpec) continue;
        if (spec.number == kAddDummyPrefix) traits.add_dummy_prefix = spec.value != 0;
        if (spec.number == kRemoveExtraWhitespaces) traits.remove_extra_whitespaces = spec.value != 0;
        if (spec.number == kEscapeWhitespaces) traits.escape_whitespaces = spec.value != 0;
      }
    }
  }
  return traits;
}

}  // namespace asplash::text
