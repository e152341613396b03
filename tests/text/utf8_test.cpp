#include "asplash/text/utf8.h"

#include <gtest/gtest.h>

#include <random>

#include "asplash/base/text.h"
#include "text/sample_text.h"

namespace asplash::text {
namespace {

std::string replaced(std::string text, int64_t expected) {
  EXPECT_EQ(replace_invalid_utf8(text), expected);
  return text;
}

TEST(Utf8, KeepsValidText) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 300; ++i) {
    const std::string text = random_utf8(random, 50);
    EXPECT_EQ(find_invalid_utf8(text), std::string::npos);
    EXPECT_EQ(replaced(text, 0), text);
  }
  EXPECT_EQ(replaced("", 0), "");
}

TEST(Utf8, ReplacesMaximalIllFormedSequences) {
  const std::string r = "\xEF\xBF\xBD";
  EXPECT_EQ(replaced("a\xFF"
                     "b",
                     1),
            "a" + r + "b");
  EXPECT_EQ(replaced("\x80", 1), r);
  EXPECT_EQ(replaced("\xC0\xAF", 2), r + r);          // overlong
  EXPECT_EQ(replaced("\xED\xA0\x80", 3), r + r + r);  // surrogate
  EXPECT_EQ(replaced("\xF4\x90\x80\x80", 4), r + r + r + r);
  EXPECT_EQ(replaced("\xF0\x9F\x98", 1), r);  // cut off
  EXPECT_EQ(replaced("\xF0\x9F\x98z\xE2\x96", 2), r + "z" + r);
  // The example of the Unicode standard, table 3-8.
  EXPECT_EQ(replaced("\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64", 6),
            "a" + r + r + r + "b" + r + "c" + r + r + "d");
}

TEST(Utf8, AgreesWithBaseOnRandomBytes) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 20000; ++i) {
    std::string bytes(random() % 12, '\0');
    for (char& byte : bytes)
      byte = static_cast<char>(random() % 3 == 0 ? random() % 128 : 0x80 + random() % 0x80);
    const bool valid = find_invalid_utf8(bytes) == std::string::npos;
    EXPECT_EQ(valid, is_valid_utf8(bytes));
    std::string repaired = bytes;
    EXPECT_EQ(replace_invalid_utf8(repaired) == 0, valid);
    EXPECT_TRUE(is_valid_utf8(repaired));
  }
}

}  // namespace
}  // namespace asplash::text
