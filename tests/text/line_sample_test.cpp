#include "asplash/text/line_sample.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>

namespace asplash::text {
namespace {

TEST(LineSample, KeepsEverythingWithinTheLimit) {
  LineSample sample(1000, 0);
  sample.add_document("one\ntwo\n\n  three\tfour");
  sample.add_document(std::string("five\0six", 8));
  sample.add_document(
      "seven\xE2\x96\x81"
      "eight\xE2\x96\x85nine\xE2\x96\x80ten");
  EXPECT_EQ(sample.take(), (std::vector<std::string>{"one", "two", "  three", "four", "five", "six", "seven",
                                                     "eight", "nine\xE2\x96\x80ten"}));
}

TEST(LineSample, CutsLongLinesBeforeSpaces) {
  std::string line;
  while (line.size() < 10000) line += " word";
  line += std::string(9000, 'x');
  std::string accents;
  for (int i = 0; i < 3000; ++i) accents += "\xC3\xA9";
  LineSample sample(1 << 20, 0);
  sample.add_document(line);
  sample.add_document("a" + accents);
  const auto lines = sample.take();
  EXPECT_EQ(std::accumulate(lines.begin(), lines.end(), std::string()), line + "a" + accents);
  for (const auto& part : lines) {
    EXPECT_LE(part.size(), 4096u);
    EXPECT_NE(static_cast<unsigned char>(part[0]) & 0xC0, 0x80);
  }
}

TEST(LineSample, DrawsUniformlyAndTheSameEachTime) {
  const auto draw = [](uint64_t seed) {
    LineSample sample(5000, seed);
    for (int i = 0; i < 10000; ++i) sample.add_document("line " + std::to_string(10000 + i));
    EXPECT_LE(sample.bytes(), 5000);
    return sample.take();
  };
  const auto lines = draw(1);
  EXPECT_EQ(lines, draw(1));
  EXPECT_NE(lines, draw(2));
  EXPECT_EQ(lines.size(), 500u);
  EXPECT_TRUE(std::is_sorted(lines.begin(), lines.end()));
  const auto first_half =
      std::count_if(lines.begin(), lines.end(), [](const auto& l) { return l < "line 15000"; });
  EXPECT_NEAR(static_cast<double>(first_half), 250, 60);
}

}  // namespace
}  // namespace asplash::text
