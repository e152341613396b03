#include "asplash/text/splits.h"

#include <gtest/gtest.h>

#include "asplash/base/error.h"

namespace asplash::text {
namespace {

TEST(Splits, ParsesNamesAndShares) {
  const auto splits = parse_splits("valid=0.02,test=.5");
  ASSERT_EQ(splits.size(), 2u);
  EXPECT_EQ(splits[0].name, "valid");
  EXPECT_EQ(splits[1].share, 0.5);
  EXPECT_TRUE(parse_splits("").empty());
}

TEST(Splits, RefusesNonsense) {
  for (const char* text : {"valid", "valid=", "valid=x", "valid=0.1x", "valid=0", "valid=1", "valid=-0.1",
                           "valid=nan", "=0.1", "../x=0.1", "a/b=0.1", "a=0.1,a=0.1", "a=0.5,b=0.5"})
    EXPECT_THROW(parse_splits(text), Error) << text;
}

TEST(Splits, DealsByShareAndNumberAlone) {
  const Splitter splitter({{"valid", 0.1}, {"test", 0.2}}, 5);
  const Splitter other({{"valid", 0.1}, {"test", 0.2}}, 6);
  std::vector<int> counts(3);
  int moved = 0;
  for (int64_t i = 0; i < 100000; ++i) {
    ++counts.at(splitter.split_of(i));
    moved += splitter.split_of(i) != other.split_of(i) ? 1 : 0;
  }
  EXPECT_NEAR(counts[0], 10000, 400);
  EXPECT_NEAR(counts[1], 20000, 600);
  EXPECT_GT(moved, 30000);
  EXPECT_EQ(Splitter({}, 0).split_of(3), 0u);
}

}  // namespace
}  // namespace asplash::text
