#include "asplash/eval/text_stream.h"

#include <gtest/gtest.h>

#include <random>

#include "asplash/base/text.h"

namespace asplash::eval {
namespace {

/// Ids 0..255 are bytes, the rest whole pieces. Decodes as SentencePiece does: a run of bytes that is not
/// valid UTF-8 gives U+FFFD for each bad byte, and the first space of the text is dropped.
class FakeVocabulary {
 public:
  std::vector<std::string> pieces = {" the", " and", "ing", "ö", " 世界", "", "."};

  static int byte_of(int32_t id) { return id < 256 ? id : -1; }

  std::string decode(const std::vector<int32_t>& ids) const {
    std::string text;
    std::string bytes;
    for (const int32_t id : ids) {
      if (id < 256) {
        bytes += static_cast<char>(id);
        continue;
      }
      text += from_bytes(bytes);
      bytes.clear();
      text += pieces[static_cast<size_t>(id - 256)];
    }
    text += from_bytes(bytes);
    return text.empty() || text[0] != ' ' ? text : text.substr(1);
  }

  TextStream stream() const {
    return TextStream([this](const std::vector<int32_t>& ids) { return decode(ids); }, byte_of);
  }

 private:
  static std::string from_bytes(const std::string& bytes) {
    std::string text;
    for (size_t i = 0; i < bytes.size();) {
      size_t length = 1;
      while (length <= 4 && !is_valid_utf8(bytes.substr(i, length))) ++length;
      const bool valid = length <= 4 && i + length <= bytes.size();
      text += valid ? bytes.substr(i, length) : "\xEF\xBF\xBD";
      i += valid ? length : 1;
    }
    return text;
  }
};

std::vector<std::string> push_all(TextStream stream, const std::vector<int32_t>& ids) {
  std::vector<std::string> parts;
  for (const int32_t id : ids) parts.push_back(stream.push(id));
  parts.push_back(stream.finish());
  return parts;
}

TEST(TextStream, HoldsBytesBackUntilTheirCharacterIsComplete) {
  const FakeVocabulary v;
  // 世 is E4 B8 96, ü is C3 BC, the face U+1F600 is F0 9F 98 80.
  EXPECT_EQ(push_all(v.stream(), {0xE4, 0xB8, 0x96, 0xC3, 0xBC, 0xF0, 0x9F, 0x98, 0x80, 'a'}),
            (std::vector<std::string>{"", "", "世", "", "ü", "", "", "", "\xF0\x9F\x98\x80", "a", ""}));
}

TEST(TextStream, DropsTheFirstSpaceOnly) {
  const FakeVocabulary v;
  EXPECT_EQ(push_all(v.stream(), {256, 257, 258, 260, 262}),
            (std::vector<std::string>{"the", " and", "ing", " 世界", ".", ""}));
}

TEST(TextStream, KeepsSpacesAfterTokensWithoutText) {
  const FakeVocabulary v;
  EXPECT_EQ(push_all(v.stream(), {261, 256, 261, 261, 257}),
            (std::vector<std::string>{"", "the", "", "", " and", ""}));
}

TEST(TextStream, GivesIncompleteCharactersOutAtTheEnd) {
  const FakeVocabulary v;
  const std::string replacement = "\xEF\xBF\xBD";
  EXPECT_EQ(push_all(v.stream(), {256, 0xE4, 0xB8}),
            (std::vector<std::string>{"the", "", "", replacement + replacement}));
  // A piece that follows ends the waiting.
  EXPECT_EQ(push_all(v.stream(), {0xE4, 257}), (std::vector<std::string>{"", replacement + " and", ""}));
  EXPECT_EQ(push_all(v.stream(), {0x80, 0x41}), (std::vector<std::string>{replacement, "A", ""}));
}

TEST(TextStream, JoinedPartsAreTheDecodedText) {
  const FakeVocabulary v;
  std::mt19937_64 random(3);
  for (int round = 0; round < 300; ++round) {
    std::vector<int32_t> ids;
    for (int i = 0; i < 40; ++i) {
      const auto x = random();
      if (x % 3 == 0) {
        for (const int byte : {0xE4, 0xB8, 0x96}) ids.push_back(byte);
      } else if (x % 3 == 1) {
        ids.push_back(256 + static_cast<int32_t>(random() % v.pieces.size()));
      } else if (round % 2 == 0) {
        ids.push_back(static_cast<int32_t>(random() % 256));
      }
    }
    std::string joined;
    for (const std::string& part : push_all(v.stream(), ids)) {
      EXPECT_TRUE(is_valid_utf8(part));
      joined += part;
    }
    EXPECT_EQ(joined, v.decode(ids));
  }
}

}  // namespace
}  // namespace asplash::eval
