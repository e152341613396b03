#include "asplash/base/text.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>

namespace asplash {
namespace {

TEST(Text, HumanCount) {
  const std::vector<std::pair<double, std::string>> cases = {
      {0, "0"},          {950, "950"},        {999, "999"},       {999.6, "1.00 k"},  {1000, "1.00 k"},
      {12345, "12.3 k"}, {123456, "123 k"},   {999499, "999 k"},  {999600, "1.00 M"}, {1234567, "1.23 M"},
      {110e6, "110 M"},  {9.996e6, "10.0 M"}, {1.5e9, "1.50 G"},  {2e12, "2.00 T"},   {3e15, "3.00 P"},
      {4e18, "4.00 E"},  {0.5, "0.5"},        {-1234, "-1.23 k"}, {2.346, "2.35"},    {0.00012, "0.00012"}};
  for (const auto& [value, text] : cases) EXPECT_EQ(human_count(value), text);
  EXPECT_EQ(human_count(std::nan("")), "nan");
}

TEST(Text, HumanBytes) {
  const std::vector<std::pair<double, std::string>> cases = {
      {0, "0 B"},        {512, "512 B"},       {1023, "1023 B"}, {1024, "1.0 KiB"},
      {1536, "1.5 KiB"}, {1048575, "1.0 MiB"}, {5e9, "4.7 GiB"}, {2e12, "1.8 TiB"}};
  for (const auto& [value, text] : cases) EXPECT_EQ(human_bytes(value), text);
}

TEST(Text, HumanDuration) {
  const std::vector<std::pair<double, std::string>> cases = {
      {-1, "0.0 s"},       {0, "0.0 s"},           {1.54, "1.5 s"},   {9.96, "10 s"},
      {12.3, "12 s"},      {59.6, "1:00 min"},     {185, "3:05 min"}, {3599.7, "1:00:00 h"},
      {7390, "2:03:10 h"}, {360000, "100:00:00 h"}};
  for (const auto& [value, text] : cases) EXPECT_EQ(human_duration(value), text);
  EXPECT_EQ(human_duration(std::numeric_limits<double>::infinity()), "?");
}

TEST(Text, Grouped) {
  const std::vector<std::pair<int64_t, std::string>> cases = {
      {0, "0"},       {999, "999"},      {1000, "1,000"},       {1234567, "1,234,567"},
      {-999, "-999"}, {-1000, "-1,000"}, {-123456, "-123,456"}, {INT64_MIN, "-9,223,372,036,854,775,808"}};
  for (const auto& [value, text] : cases) EXPECT_EQ(grouped(value), text);
}

TEST(Text, Fixed) {
  EXPECT_EQ(fixed(3.14159, 2), "3.14");
  EXPECT_EQ(fixed(-0.5, 0), "-0");
  EXPECT_EQ(fixed(1e300, 0).size(), 301u);
}

TEST(Text, Nearest) {
  const std::vector<std::string> keys = {"lr", "lr_min", "warmup_steps", "schedule", "width"};
  const std::vector<std::pair<std::string, std::string>> cases = {{"lrr", "lr"},
                                                                  {"lrmin", "lr_min"},
                                                                  {"shcedule", "schedule"},
                                                                  {"warmup_step", "warmup_steps"},
                                                                  {"xyz", ""},
                                                                  {"warmup", "warmup_steps"},
                                                                  {"embedding_width", "width"},
                                                                  {"zz", ""},
                                                                  {"", ""},
                                                                  {"widht", "width"}};
  for (const auto& [word, near] : cases) EXPECT_EQ(nearest(word, keys), near) << word;
  EXPECT_EQ(nearest("a", {}), "");
}

TEST(Text, Join) {
  EXPECT_EQ(join({}, ", "), "");
  EXPECT_EQ(join({"a"}, ", "), "a");
  EXPECT_EQ(join({"a", "", "b"}, ", "), "a, , b");
}

TEST(Text, TableAlignsNumbersRight) {
  EXPECT_EQ(table({{"part", "parameters", "share"},
                   {"embeddings", "1,234", "5.1 %"},
                   {"m\xc3\xbcll", "12.3 M", "-"},
                   {"short"}}),
            "part        parameters  share\n"
            "----------  ----------  -----\n"
            "embeddings       1,234  5.1 %\n"
            "m\xc3\xbcll            12.3 M      -\n"
            "short\n");
  EXPECT_EQ(table({{"a", "b"}, {"1", "x 1"}}), "a  b\n-  ---\n1  x 1\n");
  EXPECT_EQ(table({}), "");
}

TEST(Text, Utf8) {
  for (const char* good :
       {"", "a", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xed\x9f\xbf", "\xee\x80\x80",
        "\xf4\x8f\xbf\xbf", "\xc2\x80", "\xe0\xa0\x80", "\xf0\x90\x80\x80"}) {
    EXPECT_TRUE(is_valid_utf8(good));
  }
  EXPECT_TRUE(is_valid_utf8(std::string(1, '\0')));
  for (const char* bad : {"\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf",
                          "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xc3", "\xe2\x82", "a\xf0\x9f\x98",
                          "\xc3\x28", "\xe2\x28\xa1"}) {
    EXPECT_FALSE(is_valid_utf8(bad));
  }
}

TEST(Text, ShownIsOneLineOfValidUtf8) {
  EXPECT_EQ(shown("plain caf\u00e9"), "plain caf\u00e9");
  EXPECT_EQ(shown("a\nb\x1b[31m\x7f"), "a\\nb\\x1b[31m\\x7f");
  EXPECT_EQ(shown("\xff\xc3(\xed\xa0\x80"), "\\xff\\xc3(\\xed\\xa0\\x80");
  EXPECT_EQ(shown("12345", 5), "12345");
  EXPECT_EQ(shown("123456", 5), "12345...");
  EXPECT_EQ(shown("1234\u00e956", 5), "1234\u00e9...") << "characters stay whole";
}

TEST(Text, JsonReasonLeavesTheExceptionsNumberOut) {
  EXPECT_EQ(json_reason(std::runtime_error("[json.exception.parse_error.101] bad\n'\xff'")), "bad\\n'\\xff'");
  EXPECT_EQ(json_reason(std::runtime_error("other [1] one")), "other [1] one");
  EXPECT_LT(json_reason(std::runtime_error(std::string(100000, 'x'))).size(), 300u);
}

}  // namespace
}  // namespace asplash
